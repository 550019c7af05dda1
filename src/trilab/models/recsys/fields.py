"""Sums over fields, in one pass forward and one backward, and always in fp32."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def fp32(like: Tensor) -> AbstractContextManager[Any]:
    """Switches autocast off on a tensor's device: sums of many small products lose too much in half precision."""
    return torch.autocast(like.device.type, enabled=False)


def sum_and_squares(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """sum_i v_i and sum_i |v_i|^2: (batch, fields, dim) to (batch, dim) and (batch,).

    Half of the first squared less the second is sum_{i<j} <v_i, v_j>, in time linear in the number of fields (Rendle
    2010, lemma 3.1, https://doi.org/10.1109/ICDM.2010.127).
    """
    result: tuple[Tensor, Tensor] = _SumAndSquares.apply(vectors)
    return result


class _SumAndSquares(torch.autograd.Function):
    """Autograd's own backward makes three tensors of the input's size on the way; one is enough."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(vectors)
        return vectors.sum(1), vectors.square().sum((1, 2))

    @staticmethod
    def backward(ctx: Any, total: Tensor, squares: Tensor) -> Tensor:
        (vectors,) = ctx.saved_tensors
        return torch.addcmul(total.unsqueeze(1), vectors, 2 * squares[:, None, None])
