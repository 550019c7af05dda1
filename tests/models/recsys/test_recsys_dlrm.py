import pytest
import torch
from torch import nn

from trilab.data.recsys.spec import TableSpec
from trilab.errors import UserError
from trilab.models.recsys.dlrm import DLRM, DotInteraction

SPEC = TableSpec((3, 4, 2), dense=2)


def rows(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randint(0, size, (n,), generator=generator) for size in SPEC.cardinalities], 1)
    return ids, torch.randn(n, 2, generator=generator, dtype=torch.float64)


def pairs_by_hand(vectors: torch.Tensor) -> torch.Tensor:
    """(vectors, dim) to the strict lower triangle of their products, row by row."""
    products = []
    for i in range(len(vectors)):
        for j in range(i):
            products.append(sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True)))
    return torch.stack(products)


def test_26_fields_and_the_dense_vector_make_351_pairs_and_367_inputs():
    network = DLRM(TableSpec((10,) * 26, dense=13))
    assert network.interaction.pairs == 351 == 27 * 26 // 2
    assert network.top[0].in_features == 367 == 351 + 16
    linears = [layer for layer in network.bottom if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linears] == [512, 256, 64, 16]
    assert isinstance(network.bottom[-1], nn.ReLU)
    assert [layer.out_features for layer in network.top if isinstance(layer, nn.Linear)] == [512, 256, 1]


def test_pairs_are_the_strict_lower_triangle_row_by_row():
    one_hot = torch.tensor([[[1.0, 10.0, 100.0, 1000.0]]]).mT  # products tell which two they are of
    assert DotInteraction(4)(one_hot).tolist() == [[10.0, 100.0, 1000.0, 1000.0, 10_000.0, 100_000.0]]
    vectors = torch.randn(5, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(DotInteraction(7)(vectors), torch.stack([pairs_by_hand(each) for each in vectors]))


def test_the_gradient_of_pairs_is_that_of_the_loops():
    torch.manual_seed(0)
    vectors, weights = torch.randn(3, 6, 4, dtype=torch.float64), torch.randn(3, 15, dtype=torch.float64)
    found, expected = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
    (DotInteraction(6)(found) * weights).sum().backward()
    (torch.stack([pairs_by_hand(each) for each in expected]) * weights).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)
    assert torch.autograd.gradcheck(DotInteraction(6), (found,))


def test_pairs_are_fp32_under_autocast_forward_and_backward():
    torch.manual_seed(0)
    interaction, vectors = DotInteraction(6), torch.randn(3, 6, 4)
    plain, cast = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
    pairs = interaction(plain)
    pairs.square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        half = interaction(cast)
        half.square().sum().backward()
    assert torch.equal(half, pairs)
    assert torch.equal(cast.grad, plain.grad)


@pytest.mark.parametrize("dense", [True, False])
def test_forward_is_section_2_row_by_row(dense):
    torch.manual_seed(1)
    network = DLRM(SPEC if dense else TableSpec(SPEC.cardinalities, 0), dim=3, bottom=(5, 4), top=(6, 5)).double()
    ids, values = rows(9)
    tables = torch.split(network.table.weight, list(SPEC.cardinalities))

    def layers(network: nn.Sequential) -> list[nn.Linear]:
        return [layer for layer in network if isinstance(layer, nn.Linear)]

    for row in range(9):
        vectors = [tables[field][ids[row, field]] for field in range(3)]
        x = values[row]
        if dense:
            for layer in layers(network.bottom):
                x = torch.clamp(layer.weight @ x + layer.bias, min=0)
            vectors = [x, *vectors]
        z = pairs_by_hand(torch.stack(vectors))
        if dense:
            z = torch.cat([x, z])
        *hidden, last = layers(network.top)
        for layer in hidden:
            z = torch.clamp(layer.weight @ z + layer.bias, min=0)
        expected = last.weight[0] @ z + last.bias[0]
        found = network(ids[row : row + 1], values[row : row + 1, : 2 if dense else 0])
        assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_initial_values_are_those_of_the_authors_code():
    torch.manual_seed(0)
    network = DLRM(TableSpec((25, 400), dense=300), dim=64, bottom=(500,), top=(400,))
    for field, limit in ((0, 1 / 5), (1, 1 / 20)):
        values = network.table.field(field)
        assert 0.98 * limit < values.abs().max() <= limit
        assert values.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)
    first = network.bottom[0]
    assert first.weight.std().item() == pytest.approx((2 / 800) ** 0.5, rel=0.02)
    assert first.bias.std().item() == pytest.approx((1 / 500) ** 0.5, rel=0.15)


def test_one_vector_has_nothing_to_interact_with():
    with pytest.raises(UserError, match="nothing to interact"):
        DLRM(TableSpec((5,), dense=0))
    assert DLRM(TableSpec((5,), dense=1)).interaction.pairs == 1
