"""The gradient of a plain network's temporal-difference loss, written out.

On networks this small much of an update's time is not arithmetic but autograd's bookkeeping: loss, gradient and Adam of
CartPole's 4-120-84-2 at batch 128 take 209 us written out and 290 us with autograd (`python benchmarks/rl_update.py`,
one thread of an AMD EPYC). Where a network is fully connected layers and nothing else, its gradient is six lines.

All of it is meant to run under `torch.no_grad()`.
"""

import torch
from torch import Tensor

from trilab.models.rl.distributional import Returns, Scalar
from trilab.models.rl.layers import Linear, affine
from trilab.models.rl.networks import QNetwork


def plain_layers(network: QNetwork, returns: Returns) -> list[Linear] | None:
    """The layers of a network that is a chain of them ending in expected returns; None for any other.

    Args:
        network: of one agent, or of several.
        returns: what its output stands for.
    """
    vectors = len(network.spec.observation_shape) == 1 and network.spec.observation_dtype == "float32"
    plain = vectors and network.trunk is None and not network.noise_size and len(network.streams) == 1
    return [*network.shared, *network.streams[0]] if plain and isinstance(returns, Scalar) else None


def plain_forward(layers: list[Linear], observation: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output (..., batch, actions), and what went into each layer."""
    inputs = [observation]
    for layer in layers[:-1]:
        inputs.append(torch.relu_(affine(inputs[-1], layer.weight, layer.bias)))
    return affine(inputs[-1], layers[-1].weight, layers[-1].bias), inputs


def plain_backward(layers: list[Linear], inputs: list[Tensor], d_output: Tensor) -> None:
    """Sets every parameter's gradient.

    With x_{i+1} = relu(z_i), z_i = W_i x_i + b_i and d_i = dL/dz_i:

        dL/dW_i = d_i^T x_i,    dL/db_i = sum d_i,    d_{i-1} = (d_i W_i) [x_i > 0]

    Args:
        layers: as `plain_layers` gives them.
        inputs: as `plain_forward` gives them.
        d_output: (..., batch, actions) dL/dQ in float32.
    """
    product = torch.mm if d_output.dim() == 2 else torch.bmm
    d = d_output
    for i in range(len(layers) - 1, -1, -1):
        weight, bias, x = layers[i].weight, layers[i].bias, inputs[i]
        # Under autocast products are of lower precision, gradients are not.
        weight.grad = product(d.mT, x).to(weight.dtype)
        bias.grad = d.sum(-2, dtype=bias.dtype)
        if i:
            d = torch.ops.aten.threshold_backward(product(d, weight), x, 0)


def td_gradient(
    output: Tensor, action: Tensor, target: Tensor, weight: Tensor | None, kind: str
) -> tuple[Tensor, Tensor]:
    """The mean loss of each agent's batch (...,), and its derivative by the output (..., batch, actions).

    With e = Q(s, a) - y: 2 e for the loss e^2 (mse); e bounded to [-1, 1] for the Huber loss; each times the sample's
    weight and divided by the batch.

    Args:
        output: (..., batch, actions)
        action: (..., batch)
        target: (..., batch)
        weight: (..., batch), or None for ones.
        kind: mse or huber.
    """
    index = action.unsqueeze(-1)
    error = output.gather(-1, index).squeeze(-1).float() - target  # (..., batch)
    scale = 1.0 / error.shape[-1]
    slope = error if kind == "mse" else error.clamp(-1.0, 1.0)
    weighted = slope if weight is None else slope * weight
    # The losses are e^2 and c e - c^2 / 2, where c is e bounded.
    loss = torch.linalg.vecdot(weighted, error if kind == "mse" else error - 0.5 * slope) * scale
    factor = 2.0 * scale if kind == "mse" else scale
    d_output = torch.zeros_like(output, dtype=torch.float32)
    return loss, d_output.scatter_(-1, index, (weighted * factor).unsqueeze(-1))
