"""GMF, the MLP and NeuMF against the equations of He et al. 2017."""

import pytest
import torch
from torch import nn

from trilab.data.recsys.spec import TableSpec
from trilab.errors import ConfigError, UserError
from trilab.models.recsys.gmf import GMF
from trilab.models.recsys.ncf_mlp import NCFMLP
from trilab.models.recsys.neumf import NeuMF, fuse

SPEC = TableSpec((2, 6, 4), dense=1, user=1, item=2)
PAIRS = torch.cat([torch.zeros(24, 1, dtype=torch.int64), torch.cartesian_prod(torch.arange(6), torch.arange(4))], 1)
DENSE = torch.zeros(24, 1)


def randomize(network: nn.Module, seed: int) -> nn.Module:
    """Parameters far from their initial values, as if trained."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(generator=generator, std=0.7)
    return network


def naive_phi_gmf(users: torch.Tensor, items: torch.Tensor, row: torch.Tensor) -> list[float]:
    p, q = users[row[1]].tolist(), items[row[2]].tolist()
    return [a * b for a, b in zip(p, q, strict=True)]


def naive_phi_mlp(users: torch.Tensor, items: torch.Tensor, tower: nn.Sequential, row: torch.Tensor) -> list[float]:
    z = users[row[1]].tolist() + items[row[2]].tolist()
    for layer in tower:
        if isinstance(layer, nn.Linear):
            weight, bias = layer.weight.tolist(), layer.bias.tolist()
            z = [
                max(0.0, sum(w * x for w, x in zip(line, z, strict=True)) + b)
                for line, b in zip(weight, bias, strict=True)
            ]
    return z


def naive_logit(head: nn.Linear, phi: list[float]) -> float:
    return sum(h * x for h, x in zip(head.weight[0].tolist(), phi, strict=True)) + head.bias.item()


def test_gmf_of_hand_made_numbers():
    network = GMF(TableSpec((1, 2), 0, user=0, item=1), factors=2)
    with torch.no_grad():
        network.table.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        network.head.weight.copy_(torch.tensor([[10.0, -1.0]]))
        network.head.bias.fill_(0.5)
    # p = (1, 2), q = (5, 6): h^T (5, 12)
    assert network(torch.tensor([[0, 1]]), torch.zeros(1, 0)).tolist() == [50 - 12 + 0.5]


def test_gmf_is_equations_8_and_9_row_by_row():
    network = randomize(GMF(SPEC, factors=5), 0).double()
    users, items = network.table.weight.split([6, 4])
    expected = [naive_logit(network.head, naive_phi_gmf(users, items, row)) for row in PAIRS]
    assert network(PAIRS, DENSE).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_mlp_is_equation_10_row_by_row(layers):
    network = randomize(NCFMLP(SPEC, factors=4, layers=layers), 1).double()
    users, items = network.table.weight.split([6, 4])
    expected = [naive_logit(network.head, naive_phi_mlp(users, items, network.tower, row)) for row in PAIRS]
    assert network(PAIRS, DENSE).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_neumf_is_equation_12_row_by_row(layers):
    network = randomize(NeuMF(SPEC, factors=4, layers=layers), 2).double()
    users, items = network.table.weight.split([6, 4])
    expected = []
    for row in PAIRS:
        phi_gmf = naive_phi_gmf(users[:, :4], items[:, :4], row)
        phi_mlp = naive_phi_mlp(users[:, 4:], items[:, 4:], network.tower, row)
        expected.append(naive_logit(network.head, phi_gmf + phi_mlp))
    assert network(PAIRS, DENSE).tolist() == pytest.approx(expected, abs=1e-12)


def test_eight_factors_give_the_sizes_of_the_authors_code():
    """Their defaults: layers [64, 32, 16, 8], of which the first is the concatenation, and num_factors 8."""
    mlp, neumf = NCFMLP(SPEC, factors=8, layers=3), NeuMF(SPEC, factors=8, layers=3)
    for tower in (mlp.tower, neumf.tower):
        shapes = [(layer.in_features, layer.out_features) for layer in tower if isinstance(layer, nn.Linear)]
        assert shapes == [(64, 32), (32, 16), (16, 8)]
        assert sum(isinstance(layer, nn.ReLU) for layer in tower) == 3
    assert mlp.table.weight.shape == (10, 32)
    assert neumf.table.columns == (8, 32)
    assert (mlp.head.in_features, neumf.head.in_features) == (8, 16)


def test_initial_values_are_those_of_the_authors_code():
    torch.manual_seed(0)
    network = NeuMF(TableSpec((600, 400), 0, user=0, item=1), factors=32, layers=3)
    assert network.table.weight.std().item() == pytest.approx(0.01, rel=0.02)
    for layer in (layer for layer in network.tower if isinstance(layer, nn.Linear)):
        limit = (6 / (layer.in_features + layer.out_features)) ** 0.5  # Glorot & Bengio 2010, equation 16
        assert 0.99 * limit < layer.weight.abs().max() <= limit
        assert layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)
        assert layer.bias.abs().max() == 0
    assert 0.9 * (3 / 64) ** 0.5 < network.head.weight.abs().max() <= (3 / 64) ** 0.5
    assert network.head.bias.item() == 0


def test_an_odd_number_cannot_be_halved_between_user_and_item():
    with pytest.raises(ConfigError, match=r"model.network.factors=5 is odd, .* Choose an even one."):
        NCFMLP(SPEC, factors=5, layers=0)
    assert NCFMLP(SPEC, factors=5, layers=1).table.columns == (5,)


@pytest.mark.parametrize("alpha", [0.5, 0.25, 0.0, 1.0])
def test_a_fused_neumf_gives_the_weighted_mean_of_both_logits(alpha):
    gmf, mlp = randomize(GMF(SPEC, factors=4), 0), randomize(NCFMLP(SPEC, factors=4, layers=2), 1)
    neumf = randomize(NeuMF(SPEC, factors=4, layers=2), 2)
    fuse(gmf.state_dict(), mlp.state_dict(), neumf, alpha)
    expected = alpha * gmf(PAIRS, DENSE) + (1 - alpha) * mlp(PAIRS, DENSE)
    torch.testing.assert_close(neumf(PAIRS, DENSE), expected)


def test_the_pretrained_head_is_half_the_concatenation_and_half_the_sum_of_the_biases():
    gmf, mlp = randomize(GMF(SPEC, factors=4), 0), randomize(NCFMLP(SPEC, factors=4, layers=2), 1)
    before = {name: value.clone() for name, value in (gmf.state_dict() | mlp.state_dict()).items()}
    neumf = NeuMF(SPEC, factors=4, layers=2)
    fuse(gmf.state_dict(), mlp.state_dict(), neumf)
    torch.testing.assert_close(neumf.head.weight, 0.5 * torch.cat([gmf.head.weight, mlp.head.weight], 1))
    torch.testing.assert_close(neumf.head.bias, 0.5 * (gmf.head.bias + mlp.head.bias))
    assert torch.equal(neumf.table.weight, torch.cat([gmf.table.weight, mlp.table.weight], 1))
    # A copy: training goes on without the two, and their states are as they were.
    neumf.table.weight.data.zero_()
    after = gmf.state_dict() | mlp.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


OTHER = TableSpec((2, 6, 5), dense=1, user=1, item=2)
UNFIT = [
    (GMF(SPEC, 8), NCFMLP(SPEC, 4, 2), r"pretrained GMF: table.weight is 10x8, where this NeuMF needs 10x4"),
    (GMF(OTHER, 4), NCFMLP(SPEC, 4, 2), r"pretrained GMF: table.weight is 11x4, where this NeuMF needs 10x4"),
    (GMF(SPEC, 4), NCFMLP(OTHER, 4, 2), r"pretrained MLP: table.weight is 11x8, where .* the same factors and layers"),
    (GMF(SPEC, 4), NCFMLP(SPEC, 4, 3), r"pretrained MLP: has a tower.4.bias, so it is no MLP with this NeuMF's layers"),
    (GMF(SPEC, 4), NCFMLP(SPEC, 4, 1), r"pretrained MLP: has no tower.2.bias, so it is no MLP"),
    (NCFMLP(SPEC, 4, 2), NCFMLP(SPEC, 4, 2), r"pretrained GMF: has a tower.0.bias, so it is no GMF"),
    (GMF(SPEC, 4), GMF(SPEC, 4), r"pretrained MLP: has no tower.0.bias, so it is no MLP"),
]


@pytest.mark.parametrize(("gmf", "mlp", "said"), UNFIT, ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_fit_is_refused_and_changes_nothing(gmf, mlp, said):
    neumf = NeuMF(SPEC, factors=4, layers=2)
    before = {name: value.clone() for name, value in neumf.state_dict().items()}
    with pytest.raises(UserError, match=said) as raised:
        fuse(gmf.state_dict(), mlp.state_dict(), neumf)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in neumf.state_dict().items())
