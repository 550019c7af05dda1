import pytest
import torch
from torch import nn

from trilab.data.recsys.spec import TableSpec
from trilab.models.recsys.dcn_v2 import DCNv2

SPEC = TableSpec((3, 4, 2), dense=2)
WIDTH = 3 * 2 + 2


def rows(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randint(0, size, (n,), generator=generator) for size in SPEC.cardinalities], 1)
    return ids, torch.randn(n, 2, generator=generator, dtype=torch.float64)


def cross_matrix(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """W and b of a cross layer, W = U V^T where it is low-rank."""
    if isinstance(layer, nn.Linear):
        return layer.weight, layer.bias
    v_transposed, u = layer
    return u.weight @ v_transposed.weight, u.bias


def test_forward_of_hand_made_numbers():
    """One field with an embedding of 2, one dense feature, one cross layer, no deep network."""
    network = DCNv2(TableSpec((1,), dense=1), dim=2, cross_layers=1, hidden=())
    with torch.no_grad():
        network.table.weight.copy_(torch.tensor([[1.0, 2.0]]))
        network.cross[0].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]))
        network.cross[0].bias.copy_(torch.tensor([0.5, 0.0, -1.0]))
        network.head.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        network.head.bias.fill_(0.25)
    # x_0 = (1, 2, 3), W x_0 + b = (1.5, 3, 2), x_1 = (1 * 1.5 + 1, 2 * 3 + 2, 3 * 2 + 3) = (2.5, 8, 9)
    assert network(torch.tensor([[0]]), torch.tensor([[3.0]])).tolist() == [2.5 + 80 + 900 + 0.25]


@pytest.mark.parametrize("rank", [None, 1, 3])
@pytest.mark.parametrize("structure", ["stacked", "parallel"])
@pytest.mark.parametrize(("cross_layers", "hidden"), [(3, (6, 5)), (0, (4,)), (2, ())])
def test_forward_is_equations_1_and_2_row_by_row(rank, structure, cross_layers, hidden):
    torch.manual_seed(1)
    network = DCNv2(
        SPEC, dim=2, cross_layers=cross_layers, rank=rank, structure=structure, hidden=hidden, embedding_std=0.8
    ).double()
    ids, dense = rows(6)
    tables = torch.split(network.table.weight, list(SPEC.cardinalities))
    assert len(network.cross) == cross_layers

    def deep(h: torch.Tensor) -> torch.Tensor:
        for layer in (layer for layer in network.deep if isinstance(layer, nn.Linear)):
            h = torch.clamp(layer.weight @ h + layer.bias, min=0)
        return h

    for row in range(6):
        x0 = torch.cat([*(tables[field][ids[row, field]] for field in range(3)), dense[row]])
        x = x0
        for layer in network.cross:
            weight, bias = cross_matrix(layer)
            x = torch.stack(
                [x0[i] * (sum(weight[i, j] * x[j] for j in range(WIDTH)) + bias[i]) + x[i] for i in range(WIDTH)]
            )
        final = deep(x) if structure == "stacked" else torch.cat([x, deep(x0)])
        expected = network.head.weight[0] @ final + network.head.bias[0]
        found = network(ids[row : row + 1], dense[row : row + 1])
        assert found.item() == pytest.approx(expected.item(), abs=1e-11)


def test_each_cross_layer_adds_one_to_the_degree():
    """Without biases x_l is a polynomial of degree l + 1 in x_0: along a line the next differences vanish."""
    torch.manual_seed(0)
    for layers in (1, 2, 3):
        network = DCNv2(TableSpec((1,), dense=3), dim=1, cross_layers=layers, hidden=()).double()
        nn.init.zeros_(network.table.weight)
        steps = torch.arange(-3.0, 4.0, dtype=torch.float64).unsqueeze(1) * torch.randn(1, 3, dtype=torch.float64)
        values = network(torch.zeros(7, 1, dtype=torch.int64), steps)
        assert values.diff(n=layers + 1).abs().max() > 1e-3
        assert values.diff(n=layers + 2).abs().max() < 1e-10


def test_a_low_rank_layer_has_fewer_parameters():
    full = DCNv2(SPEC, dim=2, cross_layers=1, hidden=())
    low = DCNv2(SPEC, dim=2, cross_layers=1, rank=2, hidden=())
    count = [sum(parameter.numel() for parameter in network.cross.parameters()) for network in (full, low)]
    assert count == [WIDTH * WIDTH + WIDTH, 2 * WIDTH * 2 + WIDTH]
    assert low.cross[0][0].bias is None
