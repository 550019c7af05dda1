"""The small convolutional network of countless MNIST tutorials: conv32-pool-conv64-pool-64-10.

Each stage is a 3x3 convolution without padding, 2x2 max pooling and ReLU; then a hidden layer and the logits:

    1x28x28 -conv-> 32x26x26 -pool-> 32x13x13 -conv-> 64x11x11 -pool-> 64x5x5 = 1600 -> 64 -> 10

121,930 parameters. A network of LeNet-5's shape (LeCun et al. 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf),
with today's ReLU and max pooling. Expected: 99% of the MNIST test images right after a few epochs.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from trilab.data.vision.spec import ImageSpec
from trilab.models.vision.stages import head, stages
from trilab.ranges import PositiveInt


class MnistCNN(nn.Module):
    """Stages of convolution and pooling, then one hidden layer.

    Args:
        channels: output channels of each stage.
        hidden: units of the hidden layer.
    """

    def __init__(self, spec: ImageSpec, channels: Sequence[PositiveInt] = (32, 64), hidden: PositiveInt = 64) -> None:
        super().__init__()
        self.features, size = stages(spec, channels, pools=len(channels))
        self.head = head(size, hidden, spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))  # (batch, classes)
