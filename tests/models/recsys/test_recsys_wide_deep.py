from itertools import product

import pytest
import torch
from torch import nn

from trilab.data.recsys.spec import TableSpec
from trilab.errors import ConfigError, UserError
from trilab.models.recsys.wide_deep import Cross, WideDeep, named_pairs

SPEC = TableSpec((3, 4, 2), dense=2, fields=("user", "genre", "age"))
CROSSES = [("user", "genre"), ("age", "user")]


def rows(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randint(0, size, (n,), generator=generator) for size in SPEC.cardinalities], 1)
    return ids, torch.randn(n, 2, generator=generator)


def test_forward_of_hand_made_numbers():
    """Two fields of two ids, one dense feature, embeddings of dimension 1, one hidden unit."""
    spec = TableSpec((2, 2), dense=1, fields=("a", "b"))
    network = WideDeep(spec, dim=1, hidden=(1,), crosses=[("a", "b")], cross_buckets=4)
    with torch.no_grad():
        network.table.weight.copy_(torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]))
        network.dense_weights.copy_(torch.tensor([5.0]))
        network.cross_table.weight.copy_(torch.tensor([[100.0], [200.0], [300.0], [400.0]]))
        first, last = network.deep[0], network.deep[2]
        first.weight.copy_(torch.tensor([[1.0, -1.0, 2.0]]))
        first.bias.fill_(25.0)
        last.weight.fill_(2.0)
        last.bias.fill_(0.125)
    # ids (1, 0), x = 0.5: wide 2 + 3 + 5 * 0.5, and the cross of a = 1 and b = 0, the third of four
    # deep: 2 relu(20 - 30 + 2 * 0.5 + 25) + 0.125
    expected = (2 + 3 + 2.5 + 300) + (2 * 16 + 0.125)
    assert network(torch.tensor([[1, 0]]), torch.tensor([[0.5]])).tolist() == [expected]


@pytest.mark.parametrize("crosses", [[], CROSSES])
def test_forward_is_equations_1_to_3_row_by_row(crosses):
    torch.manual_seed(1)
    network = WideDeep(SPEC, dim=2, hidden=(6, 5), crosses=crosses, cross_buckets=50, embedding_std=0.5).double()
    ids, dense = rows(9)
    dense = dense.double()
    tables = torch.split(network.table.weight, list(SPEC.cardinalities))
    if crosses:
        nn.init.normal_(network.cross_table.weight)
        w_phi = torch.split(network.cross_table.weight[:, 0], [3 * 4, 2 * 3])
    layers = [layer for layer in network.deep if isinstance(layer, nn.Linear)]
    for row in range(9):
        user, genre, age = ids[row].tolist()
        wide = sum(tables[field][ids[row, field], 0] for field in range(3))
        wide = wide + sum(network.dense_weights[d] * dense[row, d] for d in range(2))
        if crosses:  # phi_k of equation 1, for every k
            wide = wide + sum(w_phi[0][4 * a + b] * (user == a) * (genre == b) for a, b in product(range(3), range(4)))
            wide = wide + sum(w_phi[1][3 * a + b] * (age == a) * (user == b) for a, b in product(range(2), range(3)))
        a = torch.cat([*(tables[field][ids[row, field], 1:] for field in range(3)), dense[row]])
        for layer in layers[:-1]:
            a = torch.clamp(layer.weight @ a + layer.bias, min=0)
        expected = wide + layers[-1].weight[0] @ a + layers[-1].bias[0]
        found = network(ids[row : row + 1], dense[row : row + 1])
        assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_a_cross_that_fits_has_a_weight_for_each_pair_of_ids():
    cross = Cross((3, 4, 2), [(0, 1), (2, 0)], buckets=12)
    assert cross.sizes == (12, 6)
    ids = torch.tensor(list(product(range(3), range(4), range(2))))
    numbers = cross(ids)
    assert sorted(set(numbers[:, 0].tolist())) == list(range(12))
    assert sorted(set(numbers[:, 1].tolist())) == list(range(6))
    assert len({(a, b, n) for (a, b, _), (n, _) in zip(ids.tolist(), numbers.tolist(), strict=True)}) == 12


def test_a_larger_cross_is_hashed_by_the_formula():
    cross = Cross((2**31 - 1, 2**31 - 1), [(0, 1)], buckets=1000)
    assert cross.sizes == (1000,)
    ids = [[0, 0], [1, 2], [123_456_789, 987_654_321], [2**31 - 2, 2**31 - 2]]
    for row, found in zip(ids, cross(torch.tensor(ids)).tolist(), strict=True):  # in Python's integers, without limit
        a, b = row
        assert found == [(1_103_824_361 * a + 1_918_275_577 * b + 826_366_247) % (2**31 - 1) % 1000]


def test_hashed_pairs_spread_evenly():
    cross = Cross((1000, 1000), [(0, 1)], buckets=1000)
    ids = torch.cartesian_prod(torch.arange(300), torch.arange(300))
    counts = torch.bincount(cross(ids)[:, 0], minlength=1000).double()
    # 90 pairs in each on average; drawn at random they would differ from that by sqrt(90) = 9.5.
    assert counts.sum() == 90_000
    assert (counts - 90).square().mean().sqrt() < 12
    # Nor do pairs of neighbors collide more than others.
    apart = cross(ids) != cross(ids + 1)
    assert apart.all()


def test_a_pair_never_seen_adds_nothing():
    torch.manual_seed(0)
    crossed = WideDeep(SPEC, dim=2, hidden=(4,), crosses=CROSSES)
    torch.manual_seed(0)
    plain = WideDeep(SPEC, dim=2, hidden=(4,))
    assert torch.equal(crossed(*rows(9)), plain(*rows(9)))


def test_pairs_that_no_sum_can_tell_are_learned_by_their_cross():
    """XOR of two ids, without a deep part that could: its layer has nothing but zeros."""
    spec = TableSpec((2, 2), dense=0, fields=("a", "b"))
    ids, labels = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([0.0, 1.0, 1.0, 0.0])

    def loss_after_training(crosses: list[tuple[str, str]]) -> float:
        torch.manual_seed(0)
        network = WideDeep(spec, dim=1, hidden=(), crosses=crosses)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(network(ids, torch.zeros(4, 0)), labels)
            loss.backward()
            optimizer.step()
        return loss.item()

    assert loss_after_training([("a", "b")]) < 0.02
    assert loss_after_training([]) > 0.69


def test_fields_are_found_by_name():
    assert named_pairs(SPEC, CROSSES) == [(0, 1), (2, 0)]
    with pytest.raises(UserError, match=r"no field gener. Did you mean 'genre'\? Their fields are user, genre, age."):
        WideDeep(SPEC, crosses=[("user", "gener")])
    with pytest.raises(UserError, match=r"no field user. Their fields have no names."):
        WideDeep(TableSpec((3, 4), 0), crosses=[("user", "genre")])


@pytest.mark.parametrize("crosses", [[("user", "user")], [("user",)], [("user", "genre", "age")]])
def test_what_is_no_pair_is_refused(crosses):
    with pytest.raises(ConfigError, match=r"is no pair. Expected two fields of the data, as in \[\[user, genre\]\]."):
        WideDeep(SPEC, crosses=crosses)


def test_a_pair_stands_there_once():
    with pytest.raises(ConfigError, match=r"\[genre, user\] stands there twice."):
        WideDeep(SPEC, crosses=[("user", "genre"), ("genre", "user")])
