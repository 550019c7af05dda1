import pytest
import torch

from trilab.data.recsys.spec import TableSpec
from trilab.models.recsys.mf import MatrixFactorization

SPEC = TableSpec((4, 3, 5), dense=1, user=0, item=2)


def test_forward_of_hand_made_numbers():
    network = MatrixFactorization(TableSpec((1, 2), dense=0, user=0, item=1), dim=2)
    with torch.no_grad():
        network.bias.fill_(0.5)
        network.table.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]))
    # user 0 has bias 1 and vector (2, 3); item 1 has bias 7 and vector (8, 9)
    expected = 0.5 + 1 + 7 + (2 * 8 + 3 * 9)
    assert network(torch.tensor([[0, 1]]), torch.zeros(1, 0)).tolist() == [expected]


def test_forward_is_equation_4_row_by_row():
    torch.manual_seed(1)
    network = MatrixFactorization(SPEC, dim=3).double()
    torch.nn.init.normal_(network.table.weight)
    torch.nn.init.normal_(network.bias)
    users, items = network.table.weight[:4].tolist(), network.table.weight[4:].tolist()
    for user in range(4):
        for item in range(5):
            p, q = users[user], items[item]
            expected = network.bias.item() + q[0] + p[0] + sum(q[k] * p[k] for k in (1, 2, 3))
            found = network(torch.tensor([[user, 2, item]]), torch.ones(1, 1).double())
            assert found.item() == pytest.approx(expected, abs=1e-12)


def test_biases_begin_at_zero_and_vectors_do_not():
    torch.manual_seed(0)
    network = MatrixFactorization(TableSpec((400, 600), 0, user=0, item=1), dim=20, embedding_std=0.1)
    assert network.bias.item() == 0
    assert network.table.weight[:, 0].abs().max() == 0
    assert network.table.weight[:, 1:].std().item() == pytest.approx(0.1, rel=0.05)
