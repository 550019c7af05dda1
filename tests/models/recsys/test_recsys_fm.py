from itertools import combinations

import pytest
import torch

from trilab.data.recsys.spec import TableSpec
from trilab.models.recsys.fields import sum_and_squares
from trilab.models.recsys.fm import FactorizationMachine, fm_terms

SPEC = TableSpec((3, 4, 2), dense=2)


def test_forward_of_hand_made_numbers():
    """One field of two ids and one dense feature, dimension 1."""
    network = FactorizationMachine(TableSpec((2,), dense=1), dim=1)
    with torch.no_grad():
        network.bias.fill_(0.5)
        network.table.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))  # w, v of the ids
        network.dense_table.copy_(torch.tensor([[5.0, 6.0]]))  # w, v of the dense feature
    # id 1, x = 0.5: first order 3 + 5 * 0.5; the pair <4, 6> * 0.5
    expected = 0.5 + (3 + 2.5) + 4 * 6 * 0.5
    assert network(torch.tensor([[1]]), torch.tensor([[0.5]])).tolist() == [expected]


def test_forward_is_equation_1_with_x_written_out():
    """x is the one-hot encoding of the ids, 3 + 4 + 2 places, and the dense features: all pairs of all places."""
    torch.manual_seed(1)
    network = FactorizationMachine(SPEC, dim=3, embedding_std=0.7).double()
    torch.nn.init.normal_(network.bias)
    table = torch.cat([network.table.weight, network.dense_table]).tolist()
    w, v = [row[0] for row in table], [row[1:] for row in table]
    ids = torch.tensor([[0, 0, 0], [2, 3, 1], [1, 2, 0], [2, 0, 1]])
    dense = torch.randn(4, 2, dtype=torch.float64)
    for row in range(4):
        x = [0.0] * 9 + dense[row].tolist()
        for start, index in zip((0, 3, 7), ids[row].tolist(), strict=True):
            x[start + index] = 1.0
        y = network.bias.item() + sum(w[i] * x[i] for i in range(11))
        y += sum(
            sum(a * b for a, b in zip(v[i], v[j], strict=True)) * x[i] * x[j] for i, j in combinations(range(11), 2)
        )
        assert network(ids[row : row + 1], dense[row : row + 1]).item() == pytest.approx(y, abs=1e-12)


def test_the_linear_time_form_takes_dense_features_as_fields_with_one_entry():
    torch.manual_seed(0)
    w, v = torch.randn(6, 5, 1, dtype=torch.float64), torch.randn(6, 5, 3, dtype=torch.float64)
    dense, table = torch.randn(6, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    entries = dense.unsqueeze(2) * table
    first = w.sum((1, 2)) + entries[..., 0].sum(1)
    vectors = torch.cat([v, entries[..., 1:]], 1)
    pairs = sum((vectors[:, i] * vectors[:, j]).sum(1) for i, j in combinations(range(9), 2))
    torch.testing.assert_close(fm_terms(w, v, dense, table), first + pairs)


def test_sum_and_squares_are_the_pairs_by_hand_and_have_the_gradient_that_they_should():
    # <(1,2),(3,4)> + <(1,2),(5,6)> + <(3,4),(5,6)> = 11 + 17 + 39
    total, squares = sum_and_squares(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]))
    assert (0.5 * (total.square().sum(1) - squares)).tolist() == [67.0]
    assert torch.autograd.gradcheck(sum_and_squares, torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True))


def test_one_field_alone_is_a_linear_model():
    network = FactorizationMachine(TableSpec((5,), dense=0), dim=3, embedding_std=0.5)
    ids = torch.arange(5).unsqueeze(1)
    torch.testing.assert_close(network(ids, torch.zeros(5, 0)), network.table.weight[:, 0])
