"""Small gradients become zero in float16, and a loss scale lifts them back into its range.

Micikevicius et al. 2018, section 3.2 and figure 3 (https://arxiv.org/abs/1710.03740): activation gradients below 2^-24
become zero in float16, and a loss scale of 8 was enough for their detector to match fp32, so that what mattered were
values of [2^-27, 2^-24). 2^-24 is the smallest number that float16 holds. A cast rounds to the nearest, and of two that
are as near to the even one; so it is up to 2^-25 that values become zero, and those between 2^-25 and 2^-24 become
2^-24. bfloat16 has the exponents of float32, and loses nothing there.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

#: Exponents of a histogram: of the smallest number of float32 and of the first that is too large for float16.
LOWEST, HIGHEST = -60, 16


def cast_shares(values: Tensor, scale: float, dtype: torch.dtype) -> tuple[float, float]:
    """Which shares of the values, zeros left out, become zero and infinite when scaled and cast.

    Args:
        values: float32.
        scale: loss scale; a power of two, so that scaling itself is exact.
        dtype: of the cast.
    """
    there = values[values != 0]
    cast = (there * scale).to(dtype)
    total = max(1, there.numel())
    return float((cast == 0).sum()) / total, float(cast.isinf().sum()) / total


def exponents(values: Tensor) -> Tensor:
    """Shares of the values by floor(log2 |value|), from `LOWEST` to `HIGHEST`: (HIGHEST - LOWEST + 1,).

    Zeros are left out, and count in no share; the ends take what is beyond them.
    """
    there = values[values != 0].abs()
    # frexp gives |value| = m 2^e with m in [0.5, 1).
    whole = (torch.frexp(there).exponent - 1).clamp(LOWEST, HIGHEST)
    counts = torch.bincount(whole - LOWEST, minlength=HIGHEST - LOWEST + 1)
    return counts.double() / max(1, there.numel())


def gradients(network: nn.Module, inputs: Sequence[Tensor], loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """All gradients of a batch in float32: of what every layer gives out (n,), and of the weights (m,).

    Args:
        network: is left as it was, but for the weights' gradients.
        inputs: of its forward pass.
        loss: of its output.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        # A layer that works in place gives out the tensor of the layer before it.
        if isinstance(output, Tensor) and output.requires_grad and all(output is not own for own in outputs):
            output.retain_grad()
            outputs.append(output)

    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(keep) for leaf in leaves]
    try:
        network.zero_grad()
        loss(network(*inputs)).backward()
    finally:
        for handle in handles:
            handle.remove()
    of_outputs = [output.grad.flatten() for output in outputs if output.grad is not None]
    of_weights = [weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]
    return torch.cat(of_outputs).detach(), torch.cat(of_weights).detach()
