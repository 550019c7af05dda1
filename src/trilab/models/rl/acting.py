"""Q-networks in NumPy, on the memory of the torch parameters: on few observations torch's time goes to its dispatch.

Microseconds for the 4-120-84-2 network of CartPole, NumPy against torch (`timeit`, one thread): one observation 4.5
against 12, 26 of them 14 against 19; of ten agents one each 12.5 against 21, four each 33 against 32.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from trilab.models.rl.layers import Linear, NoisyLinear

if TYPE_CHECKING:
    from trilab.models.rl.networks import QNetwork

#: Observations (rows, *shape), or (S, rows, *shape) of several agents, and standard normals (..., rows or 1,
#: noise_size) or None, to the network's output.
NumpyForward = Callable[..., np.ndarray]

# NumPy's BLAS starts threads of its own for products of more than 64^3 multiplications, which torch's thread count does
# not govern: on busy cores they wait for each other, at up to a hundred times the cost. Stay below.
BLAS_SERIAL = 64**3
# Where torch has caught up at the latest: with one agent, and with several.
MOST_ROWS, MOST_ROWS_OF_EACH = 32, 3


def numpy_rows(network: "QNetwork") -> int:
    """How many observations of each agent NumPy takes faster than torch."""
    layers = chain(network.shared, *network.streams)
    most = MOST_ROWS if network.agents is None else MOST_ROWS_OF_EACH
    return min(most, (BLAS_SERIAL - 1) // max(layer.inputs * layer.outputs for layer in layers))


def numpy_forward(network: "QNetwork") -> NumpyForward | None:
    """A network without a trunk, its weights float32 on the CPU, as a function of arrays; None for any other.

    The arrays are views of the parameters, so in-place updates are seen at once; ask again after anything that may have
    replaced the parameters.
    """
    parameters = list(network.parameters())
    if network.trunk is not None or any(p.device.type != "cpu" or p.dtype != torch.float32 for p in parameters):
        return None
    prepare = _preparation(network)
    shape = (network.spec.num_actions, network.atoms) if network.atoms > 1 else (network.spec.num_actions,)
    zero = np.float32(0)
    layers = list(chain(network.shared, *network.streams))
    numbers = network.spec.observation_dtype == "int64"
    special = prepare or numbers or len(network.streams) > 1 or network.noise_size or network.atoms > 1
    if not special and network.agents is None:
        views = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in layers]
        *hidden, (head, head_bias) = views

        def plain(observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
            x = observation
            for weight, bias in hidden:
                x = x.dot(weight)  # here half a microsecond faster than @
                x += bias
                np.maximum(x, zero, out=x)
            return x.dot(head) + head_bias

        return plain

    first = {id(layer) for layer in ([network.shared[0]] if network.shared else [s[0] for s in network.streams])}
    calls = {id(layer): _call(layer, numbers and id(layer) in first) for layer in layers}
    ends = list(accumulate(layer.noise_size for layer in layers))
    slices = {id(layer): slice(end - layer.noise_size, end) for layer, end in zip(layers, ends, strict=True)}

    def forward(observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        x = observation if prepare is None else prepare(observation)
        if noise is not None:
            noise = np.sign(noise) * np.sqrt(np.abs(noise))

        def chained(x: np.ndarray, stream: Sequence[Linear], relu_last: bool) -> np.ndarray:
            for layer in stream:
                part = None if noise is None else noise[..., slices[id(layer)]]
                x = calls[id(layer)](x, part)
                if relu_last or layer is not stream[-1]:
                    np.maximum(x, zero, out=x)
            return x

        x = chained(x, network.shared, True)
        outputs = [chained(x, stream, False) for stream in network.streams]
        rows = outputs[0].shape[:-1]
        by_action = outputs[-1].reshape(*rows, *shape)
        if len(outputs) == 1:
            return by_action
        value = outputs[0].reshape(*rows, 1, *shape[1:])
        return by_action + (value - by_action.mean(-len(shape), keepdims=True))

    return forward


def _preparation(network: "QNetwork") -> Callable[[np.ndarray], np.ndarray] | None:
    """What makes flat vectors of observations; None where they are."""
    spec, leading = network.spec, 1 if network.agents is None else 2
    if len(spec.observation_shape) <= 1 and spec.observation_dtype != "uint8":
        return None
    scale = np.float32(1 / 255) if spec.observation_dtype == "uint8" else np.float32(1)
    return lambda observation: observation.reshape(*observation.shape[:leading], -1) * scale


def _call(layer: Linear, numbers: bool) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """A layer as a function of its input, vectors or numbers of states, and of its part of the noise."""
    mean, bias = _product(layer.weight, numbers), layer.bias.detach().numpy()[..., None, :]
    if not isinstance(layer, NoisyLinear):
        return lambda x, noise: mean(x) + bias
    sigma, sigma_bias = _product(layer.sigma_weight, numbers), layer.sigma_bias.detach().numpy()[..., None, :]
    inputs = layer.inputs

    def noisy(x: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        y = mean(x) + bias
        if noise is None:
            return y
        e_in, e_out = noise[..., :inputs], noise[..., inputs:]
        if numbers:
            e_in = np.take_along_axis(np.broadcast_to(e_in, (*x.shape, inputs)), x[..., None], -1)
            return y + e_out * (e_in * sigma(x) + sigma_bias)
        return y + e_out * (sigma(x * e_in) + sigma_bias)

    return noisy


def _product(weight: torch.Tensor, numbers: bool) -> Callable[[np.ndarray], np.ndarray]:
    """x -> W x, or column x of W where x are numbers."""
    columns = weight.detach().numpy().swapaxes(-1, -2)  # (..., inputs, outputs)
    if not numbers:
        return lambda x: x.dot(columns) if columns.ndim == 2 else np.matmul(x, columns)
    if columns.ndim == 2:
        return lambda x: columns[x]
    agents = np.arange(len(columns))[:, None]
    return lambda x: columns[agents, x]
