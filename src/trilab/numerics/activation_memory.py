"""Activations take half the memory in 16 bits; what is not a float activation does not.

Micikevicius et al. 2018, section 3.1 (https://arxiv.org/abs/1710.03740): activations are most of what a training keeps,
so that keeping them in 16 bits takes about half of the memory in all. Under autocast that holds of activations that are
floats. Integers stay as they are (where the maximum of a pool was, which row of a table was looked up), and so do
layers that autocast runs in fp32; and copies of the weights in 16 bits come on top.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trilab.data.recsys.spec import TableSpec
from trilab.data.vision.spec import ImageSpec
from trilab.models.recsys.deepfm import DeepFM
from trilab.models.vision.mlp import MLP
from trilab.models.vision.mnist_cnn import MnistCNN
from trilab.numerics.saved_tensors import Part, SavedTensors


@dataclass(frozen=True)
class Kept:
    """Bytes that a forward pass keeps for the backward pass."""

    floats: int
    integers: int
    weight_copies: int

    @property
    def total(self) -> int:
        return self.floats + self.integers + self.weight_copies


def kept(network: nn.Module, inputs: Sequence[Tensor], dtype: torch.dtype | None) -> Kept:
    """What one pass keeps; the loss is not part of it.

    Args:
        network: in training mode.
        inputs: of its forward pass.
        dtype: that autocast computes in; None for no autocast.
    """
    device = inputs[0].device.type
    with (
        SavedTensors(network.parameters()) as counter,
        torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        output = network(*inputs)
    del output
    return _sorted(counter.peak)


def _sorted(parts: Mapping[Part, int]) -> Kept:
    sizes = {"floats": 0, "integers": 0, "weight_copies": 0}
    for part, size in parts.items():
        if part.kind == "weight copy":
            sizes["weight_copies"] += size
        else:
            sizes["floats" if part.dtype.is_floating_point else "integers"] += size
    return Kept(**sizes)


def examples(batch: int, seed: int = 0) -> dict[str, tuple[nn.Module, list[Tensor]]]:
    """Networks of trilab with inputs of their shapes: an MLP, a CNN with max pooling, a recommender with tables.

    Args:
        batch: rows of the inputs.
        seed: of weights and inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, 1, 28, 28, generator=generator)
    digits = ImageSpec(1, 28, 28, 10)
    clicks = TableSpec((10_000,) * 8, 4)
    ids = torch.randint(10_000, (batch, 8), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            "mlp": (MLP(digits, (1024, 1024)), [images]),
            "mnist_cnn": (MnistCNN(digits), [images]),
            "deepfm": (DeepFM(clicks), [ids, torch.rand(batch, 4, generator=generator)]),
        }
