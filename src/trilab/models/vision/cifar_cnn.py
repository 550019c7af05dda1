"""The small convolutional network of CIFAR-10 tutorials: conv32-pool-conv64-pool-conv64-64-10.

3x3 convolutions without padding, each with ReLU, all but the last with 2x2 max pooling; a hidden layer, the logits:

    3x32x32 -conv-> 32x30x30 -pool-> 32x15x15 -conv-> 64x13x13 -pool-> 64x6x6 -conv-> 64x4x4 = 1024 -> 64 -> 10

122,570 parameters. The network of TensorFlow's tutorial (https://www.tensorflow.org/tutorials/images/cnn), which says
of it: "a test accuracy of over 70%" on CIFAR-10 after ten epochs.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from trilab.data.vision.spec import ImageSpec
from trilab.models.vision.stages import head, stages
from trilab.ranges import PositiveInt


class CifarCNN(nn.Module):
    """Stages of convolution, all but the last with pooling, then one hidden layer.

    Args:
        channels: output channels of each stage.
        hidden: units of the hidden layer.
    """

    def __init__(
        self, spec: ImageSpec, channels: Sequence[PositiveInt] = (32, 64, 64), hidden: PositiveInt = 64
    ) -> None:
        super().__init__()
        self.features, size = stages(spec, channels, pools=len(channels) - 1)
        self.head = head(size, hidden, spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))  # (batch, classes)
