"""GMF, generalized matrix factorization: the inner product with a learned weight for each dimension.

He, Liao, Zhang, Nie, Hu & Chua 2017, Neural Collaborative Filtering (https://arxiv.org/abs/1708.05031):

    phi(p_u, q_i) = p_u * q_i  (elementwise)                                     (8)
    y             = a_out(h^T phi)                                               (9)

with a_out the sigmoid; here y is the logit before it. As in the authors' code
(https://github.com/hexiangnan/neural_collaborative_filtering), and unlike equation 9, there is a bias; embeddings
begin as N(0, 0.01), h as U(-sqrt(3 / factors), sqrt(3 / factors)) (LeCun), where the paper's text has N(0, 0.01) for
everything: with that the logits and all gradients begin next to nothing.
"""

from torch import Tensor, nn

from trilab.data.recsys.spec import TableSpec
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.layers import outside_autocast, take_fields, user_and_item_fields
from trilab.ranges import PositiveFloat, PositiveInt


class GMF(nn.Module):
    """From the ids of a user and an item to the logit of a click; other fields and dense features are not looked at.

    Args:
        factors: dimension of p and q: the paper's predictive factors.
        embedding_std: standard deviation of the initial p and q.
    """

    def __init__(self, spec: TableSpec, factors: PositiveInt = 32, embedding_std: PositiveFloat = 0.01) -> None:
        super().__init__()
        self.fields = user_and_item_fields(spec)
        self.table = FusedEmbedding([spec.cardinalities[field] for field in self.fields], (factors,), embedding_std)
        self.head = ncf_head(factors)

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        users, items = self.table(take_fields(ids, self.fields)).unbind(1)  # (batch, factors) each
        return outside_autocast(self.head, users * items).squeeze(1)


def ncf_head(inputs: int) -> nn.Linear:
    """The layer h of an NCF model, initialised as in the authors' code: LeCun's uniform weights, no bias yet."""
    head = nn.Linear(inputs, 1)
    limit = (3 / inputs) ** 0.5
    nn.init.uniform_(head.weight, -limit, limit)
    nn.init.zeros_(head.bias)
    return head
