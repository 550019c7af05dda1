"""Matrix factorization with biases: a user's and an item's vectors multiplied.

Koren, Bell & Volinsky 2009, Matrix Factorization Techniques for Recommender Systems
(https://doi.org/10.1109/MC.2009.263), equation 4:

    r_ui = mu + b_i + b_u + <q_i, p_u>

As Rendle, Krichene, Zhang & Anderson 2020 (https://arxiv.org/abs/2005.09683) set it against NCF, r_ui is the logit of
a click, mu a parameter as the others, and the loss logistic. Their dimension d counts the bias: d = 16 is `dim` 15.
Biases begin at 0, as in their code. The regularization that they tune is the loss's business, not the network's.

Expected, theirs, on MovieLens 1M with d = 192: HR@10 0.7294, NDCG@10 0.4523.
"""

import torch
from torch import Tensor, nn

from trilab.data.recsys.spec import TableSpec
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.layers import take_fields, user_and_item_fields
from trilab.ranges import PositiveFloat, PositiveInt


class MatrixFactorization(nn.Module):
    """From the ids of a user and an item to the logit of a click; other fields and dense features are not looked at.

    Args:
        dim: dimension of p and q.
        embedding_std: standard deviation of the initial p and q.
    """

    def __init__(self, spec: TableSpec, dim: PositiveInt = 16, embedding_std: PositiveFloat = 0.1) -> None:
        super().__init__()
        self.fields = user_and_item_fields(spec)
        self.bias = nn.Parameter(torch.zeros(()))
        self.table = FusedEmbedding([spec.cardinalities[field] for field in self.fields], (1, dim), embedding_std)
        self.table.weight.detach()[:, 0] = 0.0

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        biases, vectors = self.table.vectors(take_fields(ids, self.fields))  # (batch, 2, 1), (batch, 2, dim)
        users, items = vectors.unbind(1)  # (batch, dim) each
        return self.bias + biases.sum((1, 2)) + (users * items).sum(1)
