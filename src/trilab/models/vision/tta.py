"""Test-time augmentation: a network's mean logits over views of an image that show the same thing.

Jordan 2024, section 3.5 (https://arxiv.org/abs/2404.00498):

    level 0    f(x)
    level 1    m(x) = (f(x) + f(mirror(x))) / 2
    level 2    m(x) / 2 + (m(up and left by a pixel) + m(down and right by a pixel)) / 4

Pixels that a shift moves in at the border are reflected. A level takes 1, 2 or 6 passes of the network.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Level = Literal[0, 1, 2]


def mean_logits(network: Callable[[Tensor], Tensor], images: Tensor, level: Level) -> Tensor:
    """(batch, channels, height, width) to float32 (batch, classes)."""
    if level == 0:
        return network(images).float()
    mirrored = _mirrored(network, images)
    if level == 1:
        return mirrored
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1), "reflect")
    shifted = _mirrored(network, padded[..., :height, :width]) + _mirrored(network, padded[..., 2:, 2:])
    return 0.5 * mirrored + 0.25 * shifted


def _mirrored(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return 0.5 * network(images).float() + 0.5 * network(images.flip(-1)).float()
