"""Weights in 16 bits lose small updates, and a master copy in 32 bits keeps them.

Micikevicius et al. 2018, section 3.1 (https://arxiv.org/abs/1710.03740): of an update that is aligned with a weight
2048 times as large or larger, all bits are shifted out of float16. A type with p bits after the binary point holds
numbers of [2^k, 2^(k+1)) at steps of 2^(k-p); of an update smaller than half a step nothing is left. Half a step is
2^-(p+1) of a weight of 2^k: 2^-11 in float16 (p = 10), 2^-8 in bfloat16 (p = 7).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def repeated_update(weight: float, update: float, steps: int, gradients: torch.dtype, weights: torch.dtype) -> Tensor:
    """The weight as it is used, after each of some equal updates: (steps + 1,) float64, the initial one first.

    Args:
        weight: at first.
        update: added in each step.
        steps: how many.
        gradients: type that the update comes in; the weight is used in it too.
        weights: type that the weight is kept in, and updates are added in: the master copy's.
    """
    kept = torch.tensor(weight, dtype=weights)
    step = torch.tensor(update, dtype=gradients).to(weights)
    seen = [kept]
    for _ in range(steps):
        kept = kept + step
        seen.append(kept)
    return torch.stack(seen).to(gradients if weights is gradients else weights).double()


def survives(weight: float, updates: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Whether a weight of a type is another one after each of some updates: (updates,) bool."""
    kept = torch.tensor(weight, dtype=dtype)
    return kept + torch.tensor(list(updates), dtype=dtype) != kept


def smallest_power_kept(weight: float, dtype: torch.dtype, sign: float = 1.0) -> int:
    """The least k for which an update of `sign` 2^k changes the weight.

    Args:
        weight: not zero.
        dtype: that weight and update are held in.
        sign: 1 or -1. Below a power of two the steps are half as large as above it.
    """
    powers = range(-40, 41)
    kept = survives(weight, [sign * 2.0**power for power in powers], dtype)
    return powers[int(kept.int().argmax())]
