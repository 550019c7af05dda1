"""DeepFM: a factorization machine and a deep network on the same embeddings, added up.

Guo, Tang, Ye, Li & He 2017 (https://arxiv.org/abs/1703.04247), equations 1 to 4:

    p      = sigmoid(y_FM + y_DNN)                                               (1)
    y_FM   = <w, x> + sum_{i<j} <V_i, V_j> x_i x_j                               (2)
    a^0    = [e_1, ..., e_m]                                                     (3)
    a^l+1  = sigma(W^l a^l + b^l)                                                (4)

with e_i = V_i x_i: first order, second order and deep part read one table, whose column 0 is w and whose others are V.
A dense feature is a field with one entry and x_i its value (section 2 of the paper, first option): it has w_i and V_i
as an id has, takes part in the pairs, and enters the deep part as V_i x_i. The data module scales it.

The first layer of the deep part sees the e_i of dense features only through products W_i V_i x_i. Those are taken as
(W_i V_i) x_i, so that 13 dense features cost 13 inputs and not 13 times the dimension.

Expected: within 0.01 AUC of the best possible on data drawn from a factorization machine, in a few epochs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trilab.data.recsys.spec import TableSpec
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.fm import fm_terms
from trilab.models.recsys.layers import mlp
from trilab.ranges import FractionBelowOne, PositiveFloat, PositiveInt


class DeepFM(nn.Module):
    """From ids and dense features to the logit of a click.

    Args:
        dim: dimension of V.
        hidden: units of each hidden layer of the deep part.
        dropout: share of hidden units dropped in training.
        embedding_std: standard deviation of the initial w and V.
    """

    def __init__(
        self,
        spec: TableSpec,
        dim: PositiveInt = 16,
        hidden: Sequence[PositiveInt] = (400, 400, 400),
        dropout: FractionBelowOne = 0.0,
        embedding_std: PositiveFloat = 0.01,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.bias = nn.Parameter(torch.zeros(()))
        self.table = FusedEmbedding(spec.cardinalities, (1, dim), embedding_std)
        self.dense_table = nn.Parameter(torch.randn(spec.dense, 1 + dim) * embedding_std)
        self.deep = mlp((len(spec.cardinalities) + spec.dense) * dim, hidden, dropout)

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        w, v = self.table.vectors(ids)  # (batch, fields, 1), (batch, fields, dim)
        y_dnn = self._deep(v.flatten(1), dense)
        y_fm = fm_terms(w, v, dense, self.dense_table)
        return self.bias + y_fm + y_dnn

    def _deep(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """The deep part of (batch, fields * dim) embeddings and (batch, dense) values: (batch,)."""
        first = self.deep[0]
        assert isinstance(first, nn.Linear)
        of_ids, of_dense = first.weight.split([embeddings.shape[1], dense.shape[1] * self.dim], 1)
        hidden = F.linear(embeddings, of_ids, first.bias)
        if dense.shape[1]:
            v_dense = self.dense_table[:, 1:]
            per_value = (of_dense.view(-1, *v_dense.shape) * v_dense).sum(2)  # (units, dense)
            hidden = torch.addmm(hidden, dense, per_value.T)
        return self.deep(hidden, start=1).squeeze(1)
