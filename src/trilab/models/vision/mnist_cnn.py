"""The small convolutional network of countless MNIST tutorials: conv32-pool-conv64-pool-64-10.

Each stage is a 3x3 convolution without padding, ReLU, and 2x2 max pooling; then a hidden layer and the logits:

    1x28x28 -conv-> 32x26x26 -pool-> 32x13x13 -conv-> 64x11x11 -pool-> 64x5x5 = 1600 -> 64 -> 10

121,930 parameters. A network of LeNet-5's shape (LeCun et al. 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf),
with today's ReLU and max pooling. Expected: 99% of the MNIST test images right after a few epochs.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from trilab.data.vision.spec import ImageSpec
from trilab.errors import ConfigError
from trilab.ranges import PositiveInt


class MnistCNN(nn.Module):
    """Stages of convolution and pooling, then one hidden layer.

    Args:
        channels: output channels of each stage.
        hidden: units of the hidden layer.
    """

    def __init__(self, spec: ImageSpec, channels: Sequence[PositiveInt] = (32, 64), hidden: PositiveInt = 64) -> None:
        super().__init__()
        widths = (spec.channels, *channels)
        height, width = spec.height, spec.width
        stages: list[nn.Module] = []
        for before, after in pairwise(widths):
            stages += [nn.Conv2d(before, after, kernel_size=3), nn.ReLU(), nn.MaxPool2d(2)]
            height, width = (height - 2) // 2, (width - 2) // 2
        if min(height, width) < 1:
            raise ConfigError(
                f"model.network.channels={list(channels)}: {len(channels)} stages leave nothing of an image of "
                f"{spec.height}x{spec.width}. Use fewer."
            )
        self.features = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * height * width, hidden), nn.ReLU(), nn.Linear(hidden, spec.classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))  # (batch, classes)
