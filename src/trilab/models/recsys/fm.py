"""The factorization machine: every pair of features interacts through the product of their vectors.

Rendle 2010, Factorization Machines (https://doi.org/10.1109/ICDM.2010.127), equation 1:

    y = w_0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j

with the pairs in linear time by lemma 3.1. A categorical field is one-hot: its id's w and v are a row of the table. A
dense feature is a field with one entry and x_i its value. The data module scales it.
"""

import torch
from torch import Tensor, nn

from trilab.data.recsys.spec import TableSpec
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.fields import fp32, sum_and_squares
from trilab.ranges import PositiveFloat, PositiveInt


class FactorizationMachine(nn.Module):
    """From ids and dense features to the logit of a click.

    Args:
        dim: dimension k of v.
        embedding_std: standard deviation of the initial w and v.
    """

    def __init__(self, spec: TableSpec, dim: PositiveInt = 16, embedding_std: PositiveFloat = 0.01) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.table = FusedEmbedding(spec.cardinalities, (1, dim), embedding_std)
        self.dense_table = nn.Parameter(torch.randn(spec.dense, 1 + dim) * embedding_std)

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        w, v = self.table.vectors(ids)  # (batch, fields, 1), (batch, fields, dim)
        return self.bias + fm_terms(w, v, dense, self.dense_table)


def fm_terms(w: Tensor, v: Tensor, dense: Tensor, dense_table: Tensor) -> Tensor:
    """First and second order of ids and dense features, (batch,): both sums of equation 1.

    Args:
        w: (batch, fields, 1), the weight of each field's id.
        v: (batch, fields, dim), its vector.
        dense: (batch, dense), values.
        dense_table: (dense, 1 + dim), the weight and the vector of each dense feature.
    """
    with fp32(v):
        w_dense, v_dense = dense_table.split([1, v.shape[2]], 1)  # (dense, 1), (dense, dim)
        total, squares = sum_and_squares(v)  # (batch, dim), (batch,)
        # The vectors v_i x_i of dense features are never made: their sum and that of their squares are products.
        total = total + dense @ v_dense
        squares = squares + (dense.square() @ v_dense.square()).sum(1)
        first_order = w.sum((1, 2)) + (dense @ w_dense).squeeze(1)
        return first_order + 0.5 * (total.square().sum(1) - squares)
