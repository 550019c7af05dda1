"""The parts that the small convolutional networks of tutorials share: stages of convolution, then one hidden layer."""

from collections.abc import Sequence

from torch import nn

from trilab.data.vision.spec import ImageSpec
from trilab.errors import ConfigError


def stages(spec: ImageSpec, channels: Sequence[int], pools: int) -> tuple[nn.Sequential, int]:
    """3x3 convolutions without padding, each followed by ReLU, the first `pools` by 2x2 max pooling too.

    Pooling comes before ReLU: max(0, max x) = max(max(0, x)), and so are the gradients, at a quarter of the work.

    Args:
        spec: of the images.
        channels: output channels of each convolution.
        pools: how many of them are followed by pooling.

    Returns:
        the layers, and how many numbers they make of an image.

    Raises:
        ConfigError: the image is too small for them.
    """
    before, height, width = spec.channels, spec.height, spec.width
    layers: list[nn.Module] = []
    for stage, after in enumerate(channels):
        layers.append(nn.Conv2d(before, after, kernel_size=3))
        before, height, width = after, height - 2, width - 2
        if stage < pools:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        layers.append(nn.ReLU(inplace=True))
        if min(height, width) < 1:
            raise ConfigError(
                f"model.network.channels={list(channels)}: {len(channels)} stages leave nothing of an image of "
                f"{spec.height}x{spec.width}. Use fewer."
            )
    return nn.Sequential(*layers), before * height * width


def head(features: int, hidden: int, classes: int) -> nn.Sequential:
    """One hidden layer with ReLU, and the logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, classes))
