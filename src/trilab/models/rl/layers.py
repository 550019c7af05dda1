"""Fully connected layers of one agent or of several at once, with and without noise of their own.

A weight is (outputs, inputs), or (S, outputs, inputs) where S agents are trained as one batch; an input is
(batch, inputs), or (S, batch, inputs). Written out with batched products rather than left to `torch.vmap`.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """y = W x + b: (..., batch, inputs) to (..., batch, outputs).

    Whole numbers (..., batch) instead of vectors stand for one-hot vectors, of which the product is column x of W.
    """
    if x.is_floating_point():
        return F.linear(x, weight, bias) if weight.dim() == 2 else torch.baddbmm(bias.unsqueeze(-2), x, weight.mT)
    if weight.dim() == 2:
        return weight.index_select(1, x).t() + bias
    columns = x.unsqueeze(-2).expand(*weight.shape[:-1], x.shape[-1])  # (S, outputs, batch)
    return weight.gather(-1, columns).mT + bias.unsqueeze(-2)


def factorised(noise: Tensor) -> Tensor:
    """f(x) = sgn(x) sqrt|x|, Fortunato et al. 2018 below equation 11."""
    return noise.sign() * noise.abs().sqrt()


class Linear(nn.Module):
    """y = W x + b, initialised as `torch.nn.Linear` does, with the same draws."""

    #: How many numbers of noise one input takes.
    noise_size = 0

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.outputs = outputs
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        bound = inputs**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        parameters = self._parameters  # `self.weight` asks three dictionaries, at the price of a small addition
        return affine(x, parameters["weight"], parameters["bias"])  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.outputs}"


class NoisyLinear(Linear):
    """y = (W + sigma_W * eps_W) x + b + sigma_b * eps_b with factorised Gaussian noise.

    Fortunato et al. 2018, Noisy Networks for Exploration, equations 9 to 11 (https://arxiv.org/abs/1706.10295):
    eps_W = f(e_out) f(e_in)^T and eps_b = f(e_out). A sample for each row of the batch needs no weight of its own:

        y = W x + b + f(e_out) * (sigma_W (f(e_in) * x) + sigma_b)

    W and b start uniform within 1/sqrt(inputs), both sigmas at sigma_0/sqrt(inputs) (their section 3.2).

    Args:
        inputs: width of the input.
        outputs: width of the output.
        sigma: sigma_0; 0.5 in the paper.
    """

    def __init__(self, inputs: int, outputs: int, sigma: float) -> None:
        super().__init__(inputs, outputs)
        self.noise_size = inputs + outputs
        self.sigma_weight = nn.Parameter(torch.full((outputs, inputs), sigma * inputs**-0.5))
        self.sigma_bias = nn.Parameter(torch.full((outputs,), sigma * inputs**-0.5))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """The layer's output; `noise` (..., rows, inputs + outputs) holds f(e_in) and f(e_out), rows = batch or 1."""
        if noise is None:
            return affine(x, self.weight, self.bias)
        e_in, e_out = noise.split((self.inputs, self.outputs), dim=-1)
        if not x.is_floating_point():  # one-hot: of f(e_in) only component x counts
            e_in = e_in.expand(*x.shape, self.inputs).gather(-1, x.unsqueeze(-1))  # (..., batch, 1)
            columns = affine(x, self.sigma_weight, torch.zeros_like(self.sigma_bias))
            spread = e_in * columns + self.sigma_bias.unsqueeze(-2)
        elif noise.shape[-2] == 1:
            # One noisy weight for the whole batch is one product instead of two: forward and backward of 120 to 84 at
            # batch 128 take 157 us instead of 268, of 3136 to 512 at batch 32 8.2 ms instead of 8.8 (one CPU thread).
            weight = torch.addcmul(self.weight, self.sigma_weight, e_out.mT * e_in)
            return affine(x, weight, torch.addcmul(self.bias, self.sigma_bias, e_out.squeeze(-2)))
        else:
            spread = affine(x * e_in, self.sigma_weight, self.sigma_bias)
        return affine(x, self.weight, self.bias) + e_out * spread


def stack_modules(modules: Sequence[M]) -> M:
    """Modules of one architecture as one, every parameter and buffer with a leading axis of len(modules)."""
    stacked = copy.deepcopy(modules[0])
    done: dict[Tensor, Tensor] = {}  # by the tensor replaced, which is the same for one that stands in two places
    for parts in zip(stacked.modules(), *(module.modules() for module in modules), strict=True):
        for store in ("_parameters", "_buffers"):
            own, *originals = (getattr(part, store) for part in parts)
            for name, tensor in own.items():
                if tensor is None:
                    continue
                if tensor not in done:
                    together = torch.stack([original[name].detach() for original in originals])
                    is_parameter = store == "_parameters"
                    done[tensor] = nn.Parameter(together, tensor.requires_grad) if is_parameter else together
                own[name] = done[tensor]
    return stacked


def unstack(state: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Agent k's own of a stacked module's state_dict, in memory of its own."""
    return {name: tensor[k].clone() for name, tensor in state.items()}
