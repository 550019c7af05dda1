"""Wide & Deep: a linear model with crossed features beside a deep network on embeddings.

Cheng et al. 2016, Wide & Deep Learning for Recommender Systems (https://arxiv.org/abs/1606.07792):

    phi_k(x)         = prod_i x_i^{c_ki},    c_ki in {0, 1}                              (1)
    a^(l+1)          = f(W^(l) a^(l) + b^(l))                                            (2)
    P(Y = 1 | x)     = sigmoid(w_wide^T [x, phi(x)] + w_deep^T a^(l_f) + b)              (3)

x is the one-hot encoding of every field and the dense features, each with a weight in the wide part. phi are the pairs
of fields that `crosses` names: a pair's feature k is 1 where both ids are those of k. The deep part's input is the
concatenation of the embeddings and the dense features, f is ReLU. An id's weight and embedding are a row of one table.

What differs: one optimiser trains both parts, where the paper has FTRL with L1 for the wide one and AdaGrad for the
deep one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trilab.data.recsys.spec import TableSpec
from trilab.errors import UserError, nearest
from trilab.models.recsys.checks import check_crosses
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.layers import mlp
from trilab.ranges import FractionBelowOne, PositiveFloat, PositiveInt

# A prime, and random numbers below it: their products with ids, which are below 2^31, and the sum fit into an int64.
_PRIME, _LEFT, _RIGHT, _SHIFT = 2**31 - 1, 1_103_824_361, 1_918_275_577, 826_366_247


class WideDeep(nn.Module):
    """From ids and dense features to the logit of a click.

    Args:
        dim: dimension of the embeddings.
        hidden: units of each hidden layer of the deep part.
        crosses: pairs of fields, by name, that the wide part crosses.
        cross_buckets: weights of each cross. Pairs of ids share one by chance where there are more of them.
        dropout: share of hidden units dropped in training.
        embedding_std: standard deviation of the initial weights and embeddings of ids. Those of crosses begin at 0: a
            pair never seen in training adds nothing.
    """

    def __init__(
        self,
        spec: TableSpec,
        dim: PositiveInt = 16,
        hidden: Sequence[PositiveInt] = (400, 400, 400),
        crosses: Sequence[tuple[str, str]] = (),
        cross_buckets: PositiveInt = 100_000,
        dropout: FractionBelowOne = 0.0,
        embedding_std: PositiveFloat = 0.01,
    ) -> None:
        super().__init__()
        self.table = FusedEmbedding(spec.cardinalities, (1, dim), embedding_std)
        self.dense_weights = nn.Parameter(torch.randn(spec.dense) * embedding_std)
        # Its last layer's bias is the b of equation 3.
        self.deep = mlp(len(spec.cardinalities) * dim + spec.dense, hidden, dropout)
        self.cross: Cross | None = None
        if crosses:
            self.cross = Cross(spec.cardinalities, named_pairs(spec, crosses), cross_buckets)
            self.cross_table = FusedEmbedding(self.cross.sizes, (1,), 0.0)

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        weights, vectors = self.table.vectors(ids)  # (batch, fields, 1), (batch, fields, dim)
        wide = weights.sum((1, 2)) + (dense * self.dense_weights).sum(1)  # (batch,)
        if self.cross is not None:
            wide = wide + self.cross_table.vectors(self.cross(ids))[0].sum((1, 2))
        deep = self.deep(torch.cat([vectors.flatten(1), dense], 1)).squeeze(1)
        return wide + deep


class Cross(nn.Module):
    """Numbers pairs of ids, of some pairs of fields: (batch, fields) to (batch, crosses).

    A cross of n_a by n_b ids that fit into its `buckets` has a number for each, a n_b + b. A larger one is hashed to
    ((A a + B b + C) mod p) mod buckets, p = 2^31 - 1 (Carter & Wegman 1979, https://doi.org/10.1016/0022-0000(79)90044-8):
    two pairs share a number with a probability of about 1 / buckets.

    Args:
        cardinalities: ids of each field.
        pairs: fields, by number.
        buckets: the most numbers that a cross has.
    """

    left: Tensor
    right: Tensor
    row: Tensor
    exact: Tensor
    modulus: Tensor

    def __init__(self, cardinalities: Sequence[int], pairs: Sequence[tuple[int, int]], buckets: int) -> None:
        super().__init__()
        products = [cardinalities[a] * cardinalities[b] for a, b in pairs]
        #: How many numbers each cross has.
        self.sizes = tuple(min(product, buckets) for product in products)
        columns = {
            "left": [a for a, _ in pairs],
            "right": [b for _, b in pairs],
            "row": [cardinalities[b] for _, b in pairs],
            "exact": [product <= buckets for product in products],
            "modulus": self.sizes,
        }
        for name, column in columns.items():
            self.register_buffer(name, torch.tensor(column), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        a, b = ids.index_select(1, self.left), ids.index_select(1, self.right)  # (batch, crosses)
        hashed = (_LEFT * a + _RIGHT * b + _SHIFT) % _PRIME % self.modulus
        return torch.where(self.exact, a * self.row + b, hashed)


def named_pairs(spec: TableSpec, crosses: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """The numbers of fields that are named in pairs.

    Raises:
        UserError: the data have no field of a name.
    """
    check_crosses(crosses)
    for name in (name for pair in crosses for name in pair):
        if name not in spec.fields:
            allowed = f"Their fields are {', '.join(spec.fields)}." if spec.fields else "Their fields have no names."
            raise UserError(
                f"model.network.crosses: the data have no field {name}.{nearest(name, spec.fields)} {allowed}"
            )
    return [(spec.fields.index(a), spec.fields.index(b)) for a, b in crosses]
