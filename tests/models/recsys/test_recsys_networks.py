"""What every recommender network must do, whatever its equation."""

import io
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trilab.config.signatures import signature
from trilab.data.recsys.spec import TableSpec
from trilab.errors import UserError
from trilab.models.recsys.dcn_v2 import DCNv2
from trilab.models.recsys.dlrm import DLRM
from trilab.models.recsys.fm import FactorizationMachine
from trilab.models.recsys.gmf import GMF
from trilab.models.recsys.layers import mlp, outside_autocast
from trilab.models.recsys.mf import MatrixFactorization
from trilab.models.recsys.ncf_mlp import NCFMLP
from trilab.models.recsys.neumf import NeuMF
from trilab.models.recsys.wide_deep import WideDeep

#: Users, and items behind a field of side information and before another.
SPEC = TableSpec((4, 7, 5, 3), dense=2, fields=("age", "user", "item", "genre"), user=1, item=2)
WITHOUT_DENSE = TableSpec((4, 7, 5, 3), dense=0, fields=SPEC.fields, user=1, item=2)
OF_USER_AND_ITEM = {
    "mf": partial(MatrixFactorization, dim=6),
    "gmf": partial(GMF, factors=8, embedding_std=0.3),
    "ncf_mlp": partial(NCFMLP, factors=8, layers=2, embedding_std=0.3),
    "neumf": partial(NeuMF, factors=8, layers=2, embedding_std=0.3),
}
OF_ALL_FIELDS = {
    "fm": partial(FactorizationMachine, dim=6, embedding_std=0.1),
    "wide_deep": partial(WideDeep, dim=4, hidden=(16, 8), crosses=[("age", "genre"), ("user", "item")], dropout=0.0),
    "dlrm": partial(DLRM, dim=4, bottom=(8,), top=(16,)),
    "dcn_v2": partial(DCNv2, dim=4, hidden=(16, 8), embedding_std=0.1),
    "dcn_v2_low_rank": partial(DCNv2, dim=4, hidden=(16,), rank=3, structure="parallel", embedding_std=0.1),
}
ALL = OF_USER_AND_ITEM | OF_ALL_FIELDS


def make(name: str, spec: TableSpec = SPEC, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return ALL[name](spec)


def rows(n: int, spec: TableSpec = SPEC, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randint(0, size, (n,), generator=generator) for size in spec.cardinalities], 1)
    return ids, torch.randn(n, spec.dense, generator=generator)


def labels_of_pairs(ids: torch.Tensor) -> torch.Tensor:
    """Labels that user and item decide together, and neither alone."""
    return ((ids[:, 1] * 3 + ids[:, 2] * 5) % 7 < 3).float()


@pytest.mark.parametrize("spec", [SPEC, WITHOUT_DENSE], ids=["dense", "no_dense"])
@pytest.mark.parametrize("name", ALL)
def test_a_row_has_a_logit_that_no_other_row_changes(name, spec):
    network, (ids, dense) = make(name, spec), rows(9, spec)
    logits = network(ids, dense)
    assert logits.shape == (9,)
    assert logits.dtype == torch.float32
    one = torch.cat([network(ids[i : i + 1], dense[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(one, logits)
    assert network(ids[:0], dense[:0]).shape == (0,)


@pytest.mark.parametrize("name", ALL)
def test_overfits_one_batch(name):
    network = make(name)
    ids, dense = rows(24)
    labels = labels_of_pairs(ids)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(network(ids, dense), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_has_a_gradient(name):
    network, (ids, dense) = make(name), rows(40)
    network(ids, dense).square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_finite_differences(name):
    network, (ids, dense) = make(name).double(), rows(5)
    parameters = list(network.parameters())

    def forward(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(network.named_parameters()), values, strict=True))
        return torch.func.functional_call(network, named, (ids, dense.double()))

    torch.manual_seed(1)
    assert torch.autograd.gradcheck(forward, parameters, fast_mode=True)


@pytest.mark.parametrize("name", ALL)
def test_a_state_dict_holds_all_that_is_learned_and_nothing_else(name):
    network, other, (ids, dense) = make(name), make(name, seed=1), rows(9)
    assert set(network.state_dict()) == set(dict(network.named_parameters()))
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    assert not torch.equal(other(ids, dense), network(ids, dense))
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(ids, dense), network(ids, dense))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL)
def test_logits_and_gradients_are_fp32_under_autocast(name, half):
    network, (ids, dense) = make(name), rows(200)
    full = network(ids, dense)
    with torch.autocast("cpu", half):
        logits = network(ids, dense)
        loss = F.binary_cross_entropy_with_logits(logits.float(), labels_of_pairs(ids))
    loss.backward()
    assert logits.dtype == torch.float32
    # Not rounded to half precision on the way out.
    assert not torch.equal(logits, logits.to(half).float())
    torch.testing.assert_close(logits, full, rtol=0.05, atol=0.02)
    assert {parameter.grad.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["mf", "gmf", "fm"])
def test_without_a_hidden_layer_all_is_fp32_under_autocast(name):
    network, (ids, dense) = make(name), rows(50)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(ids, dense)
    assert torch.equal(logits, network(ids, dense))


@pytest.mark.parametrize("name", OF_USER_AND_ITEM)
def test_side_features_are_not_looked_at(name):
    network, (ids, dense) = make(name), rows(9)
    others = ids.clone()
    others[:, [0, 3]] = 0
    assert torch.equal(network(others, dense * 7), network(ids, dense))
    assert len(network.table.weight) == 7 + 5
    alone = ALL[name](TableSpec((7, 5), dense=0, user=0, item=1))
    alone.load_state_dict(network.state_dict())
    assert torch.equal(alone(ids[:, 1:3], dense[:, :0]), network(ids, dense))


@pytest.mark.parametrize("name", OF_USER_AND_ITEM)
def test_the_item_may_stand_before_the_user(name):
    network, (ids, dense) = make(name), rows(9)
    turned = ALL[name](TableSpec((5, 7), dense=0, user=1, item=0))
    turned.load_state_dict(network.state_dict())
    assert torch.equal(turned(ids[:, [2, 1]], dense[:, :0]), network(ids, dense))


@pytest.mark.parametrize("name", OF_USER_AND_ITEM)
@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        (TableSpec((7, 5), 0), "no user and no item"),
        (TableSpec((7, 5), 0, user=0), "no item"),
        (TableSpec((7, 5), 0, item=1), "no user"),
    ],
)
def test_data_without_users_or_items_are_refused_in_one_line(name, spec, missing):
    with pytest.raises(UserError, match=f"the data name {missing}. Choose data with both") as raised:
        ALL[name](spec)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ALL)
def test_every_constructor_can_be_checked_without_torch(name):
    network = ALL[name].func
    parameters = signature(f"{network.__module__}.{network.__name__}").parameters
    assert "spec" in parameters
    assert all("Any" not in str(kind) for knob, kind in parameters.items() if knob != "spec")


def test_a_last_layer_is_not_rounded():
    torch.manual_seed(0)
    network, inputs = mlp(8, (16,), 0.0), torch.randn(50, 8)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = network[1](network[0](inputs))
        logits = network(inputs)
        plain = network[2](hidden)
    assert hidden.dtype == plain.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, F.linear(hidden.float(), network[2].weight, network[2].bias))
    assert outside_autocast(network[2].double(), hidden).dtype == torch.float64
