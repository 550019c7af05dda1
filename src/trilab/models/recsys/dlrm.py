"""DLRM: a bottom MLP makes the dense features a vector as long as the embeddings, and all vectors interact in pairs.

Naumov et al. 2019, Deep Learning Recommendation Model for Personalization and Recommendation Systems
(https://arxiv.org/abs/1906.00091), section 2 and figure 1; with e_1, ..., e_m the embeddings:

    e_0 = bottom(dense)
    z   = [e_0; <e_i, e_j> for i = 1, ..., m, j = 0, ..., i - 1]
    y   = sigmoid(top(z))

Here y is the logit before the sigmoid. The pairs are the strict lower triangle, row by row: with 26 fields 351 of them,
and with a dimension of 16 top has 367 inputs. All layers but top's last have ReLU, bottom's last too. Without dense
features there is no e_0, and the embeddings alone interact.

Initialised as in the authors' code (https://github.com/facebookresearch/dlrm): embeddings of a field with n ids
U(-1/sqrt(n), 1/sqrt(n)), weights of a layer from m to n units N(0, sqrt(2 / (m + n))), its biases N(0, sqrt(1 / n)).
Pairs are taken in fp32 under mixed precision too.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trilab.data.recsys.spec import TableSpec
from trilab.errors import UserError
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.fields import fp32
from trilab.models.recsys.layers import mlp, relu_layers
from trilab.ranges import PositiveInt


class DLRM(nn.Module):
    """From ids and dense features to the logit of a click.

    Args:
        dim: dimension of the embeddings, and units of the bottom MLP's last layer.
        bottom: units of the layers of the bottom MLP before that.
        top: units of each hidden layer of the top MLP.
    """

    def __init__(
        self,
        spec: TableSpec,
        dim: PositiveInt = 16,
        bottom: Sequence[PositiveInt] = (512, 256, 64),
        top: Sequence[PositiveInt] = (512, 256),
    ) -> None:
        super().__init__()
        vectors = len(spec.cardinalities) + bool(spec.dense)
        if vectors < 2:
            raise UserError("dlrm: there is nothing to interact. It needs two fields, or one and dense features.")
        self.table = FusedEmbedding(spec.cardinalities, (dim,), 1.0)
        self.bottom = nn.Sequential(*relu_layers(spec.dense, (*bottom, dim))) if spec.dense else None
        self.interaction = DotInteraction(vectors)
        self.top = mlp(self.interaction.pairs + (dim if spec.dense else 0), top, 0.0)
        self._initialize()

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        embeddings = self.table(ids)  # (batch, fields, dim)
        if self.bottom is None:
            return self.top(self.interaction(embeddings)).squeeze(1)
        x = self.bottom(dense)  # (batch, dim)
        pairs = self.interaction(torch.cat([x.unsqueeze(1), embeddings], 1))
        return self.top(torch.cat([x, pairs], 1)).squeeze(1)

    def _initialize(self) -> None:
        for number, cardinality in enumerate(self.table.cardinalities):
            limit = cardinality**-0.5
            self.table.field(number).uniform_(-limit, limit)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=(2 / (layer.in_features + layer.out_features)) ** 0.5)
                nn.init.normal_(layer.bias, std=layer.out_features**-0.5)


class DotInteraction(nn.Module):
    """The products of all pairs of `vectors` vectors: (batch, vectors, dim) to (batch, pairs)."""

    lower: Tensor
    mirrored: Tensor

    def __init__(self, vectors: int) -> None:
        super().__init__()
        i, j = torch.tril_indices(vectors, vectors, offset=-1)
        #: How many pairs there are.
        self.pairs = len(i)
        mirrored = torch.full((vectors, vectors), self.pairs)  # one past the last pair: the diagonal is none
        mirrored[i, j] = mirrored[j, i] = torch.arange(self.pairs)
        self.register_buffer("lower", i * vectors + j, persistent=False)
        self.register_buffer("mirrored", mirrored.flatten(), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        return _PairwiseDots.apply(vectors, self.lower, self.mirrored)


class _PairwiseDots(torch.autograd.Function):
    """The strict lower triangle of T T^T, whose gradient is one product, G T with G symmetric.

    Left to autograd, the gradient would be scattered into a matrix and multiplied twice.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, lower: Tensor, mirrored: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, mirrored)
        with fp32(vectors):
            products = torch.bmm(vectors, vectors.transpose(1, 2))  # (batch, vectors, vectors)
        return products.flatten(1).index_select(1, lower)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        vectors, mirrored = ctx.saved_tensors
        padded = torch.cat([grad, grad.new_zeros(len(grad), 1)], 1)  # (batch, pairs + 1)
        symmetric = padded.index_select(1, mirrored).view(len(grad), vectors.shape[1], vectors.shape[1])
        with fp32(vectors):
            return torch.bmm(symmetric, vectors), None, None
