"""The MLP of NCF: a tower of ever narrower layers on a user's and an item's concatenated embeddings.

He, Liao, Zhang, Nie, Hu & Chua 2017, Neural Collaborative Filtering (https://arxiv.org/abs/1708.05031), equation 10:

    z_1 = [p_u; q_i],    phi_l(z_l-1) = relu(W_l^T z_l-1 + b_l),    y = sigmoid(h^T phi_L)

Here y is the logit before the sigmoid, with a bias as in the authors' code
(https://github.com/hexiangnan/neural_collaborative_filtering).

Each layer has half the units of the one before, and the last `factors`. With L = `layers` the sizes, in the notation
of that code, whose first is the concatenation's, are [factors 2^L, ..., 2 factors, factors]: for 8 factors and 3 layers
[64, 32, 16, 8], the code's own, with embeddings of 32 numbers each. The text of section 4.1 ("32 -> 16 -> 8, and the
embedding size is 16") is 2 layers in this count. `layers=0` puts h right on the embeddings: MLP-0 of the tables 3 and
4.

Initialised as in the code: embeddings N(0, 0.01), W Glorot's uniform, h LeCun's, biases 0.
"""

from torch import Tensor, nn

from trilab.data.recsys.spec import TableSpec
from trilab.models.recsys.checks import tower_sizes
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.gmf import ncf_head
from trilab.models.recsys.layers import outside_autocast, relu_layers, take_fields, user_and_item_fields
from trilab.ranges import NonNegativeInt, PositiveFloat, PositiveInt


class NCFMLP(nn.Module):
    """From the ids of a user and an item to the logit of a click; other fields and dense features are not looked at.

    Args:
        factors: units of the last layer: the paper's predictive factors.
        layers: hidden layers, each with half the units of the one before.
        embedding_std: standard deviation of the initial p and q.
    """

    def __init__(
        self,
        spec: TableSpec,
        factors: PositiveInt = 32,
        layers: NonNegativeInt = 3,
        embedding_std: PositiveFloat = 0.01,
    ) -> None:
        super().__init__()
        self.fields = user_and_item_fields(spec)
        sizes = tower_sizes(factors, layers)
        self.table = FusedEmbedding([spec.cardinalities[f] for f in self.fields], (sizes[0] // 2,), embedding_std)
        self.tower = ncf_tower(sizes)
        self.head = ncf_head(factors)

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        vectors = self.table(take_fields(ids, self.fields))  # (batch, 2, factors 2^layers / 2)
        return outside_autocast(self.head, self.tower(vectors.flatten(1))).squeeze(1)


def ncf_tower(sizes: list[int]) -> nn.Sequential:
    """The hidden layers, (batch, sizes[0]) to (batch, sizes[-1]), initialised as in the authors' code."""
    tower = nn.Sequential(*relu_layers(sizes[0], sizes[1:]))
    for layer in tower:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return tower
