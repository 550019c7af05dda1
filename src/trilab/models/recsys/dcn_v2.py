"""DCN-V2: cross layers, each of which raises the degree of the features' interactions by one, and a deep network.

Wang, Shivanna, Cheng, Jain, Lin, Hong & Chi 2021, DCN V2: Improved Deep & Cross Network and Practical Lessons for
Web-scale Learning to Rank Systems (https://arxiv.org/abs/2008.13535):

    x_l+1 = x_0 * (W_l x_l + b_l) + x_l                                                  (1)
    x_l+1 = x_0 * (U_l (V_l^T x_l) + b_l) + x_l                                          (2)

with * elementwise and x_0 the concatenation of the embeddings and the dense features. (2) is the low-rank form, U and
V of `rank` columns each. The deep network is h_l+1 = relu(W h_l + b), and the logit w^T x_final + b, where x_final is
the deep network's output on the cross layers' (`stacked`), or the two networks' outputs on x_0 together (`parallel`).
The paper's mixture of low-rank experts is left out.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from trilab.data.recsys.spec import TableSpec
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.layers import outside_autocast, relu_layers
from trilab.ranges import FractionBelowOne, NonNegativeInt, PositiveFloat, PositiveInt


class DCNv2(nn.Module):
    """From ids and dense features to the logit of a click.

    Args:
        dim: dimension of the embeddings.
        cross_layers: cross layers: interactions of up to so many features and one more.
        rank: columns of U and V; None for a full W.
        structure: the deep network behind the cross layers, or beside them.
        hidden: units of each hidden layer of the deep network.
        dropout: share of the deep network's hidden units dropped in training.
        embedding_std: standard deviation of the initial embeddings.
    """

    def __init__(
        self,
        spec: TableSpec,
        dim: PositiveInt = 16,
        cross_layers: NonNegativeInt = 3,
        rank: PositiveInt | None = None,
        structure: Literal["stacked", "parallel"] = "stacked",
        hidden: Sequence[PositiveInt] = (400, 400, 400),
        dropout: FractionBelowOne = 0.0,
        embedding_std: PositiveFloat = 0.01,
    ) -> None:
        super().__init__()
        self.parallel = structure == "parallel"
        self.table = FusedEmbedding(spec.cardinalities, (dim,), embedding_std)
        width = len(spec.cardinalities) * dim + spec.dense
        self.cross = nn.ModuleList(_affine(width, rank) for _ in range(cross_layers))
        self.deep = nn.Sequential(*relu_layers(width, hidden, dropout))
        self.head = nn.Linear([width, *hidden][-1] + (width if self.parallel else 0), 1)

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        x0 = torch.cat([self.table(ids).flatten(1), dense], 1)  # (batch, width)
        x = x0
        for layer in self.cross:
            x = x0 * layer(x) + x
        final = torch.cat([x, self.deep(x0)], 1) if self.parallel else self.deep(x)
        return outside_autocast(self.head, final).squeeze(1)


def _affine(width: int, rank: int | None) -> nn.Module:
    """W x + b, or U (V^T x) + b."""
    if rank is None:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
