"""ResNet-18, torchvision's, with a stem for small images.

He et al. 2016, Deep Residual Learning for Image Recognition (https://arxiv.org/abs/1512.03385): each block adds to its
input what two convolutions make of it, y = F(x) + x (equation 1). ImageNet's stem, a 7x7 convolution of stride 2 and a
pooling of stride 2, would leave 8x8 of a 32x32 image before the first block; the stem of the paper's own CIFAR-10
networks (section 4.2) is one 3x3 convolution of stride 1:

    3x32x32 -conv-> 64x32x32 -2 blocks-> 64x32x32 -2-> 128x16x16 -2-> 256x8x8 -2-> 512x4x4 -mean-> 512 -> 10

11,173,962 parameters with the small stem, 3 channels and 10 classes.
"""

from typing import Any, Literal

from torch import Tensor, nn

from trilab.data.vision.spec import ImageSpec
from trilab.runtime import import_torchvision


class ResNet18(nn.Module):
    """torchvision's `resnet18`, initialised at random, for images of any number of channels.

    Args:
        stem: `small` is a 3x3 convolution of stride 1 without pooling; `imagenet` is a 7x7 convolution of stride 2 and
            a 3x3 max pooling of stride 2.
    """

    def __init__(self, spec: ImageSpec, stem: Literal["small", "imagenet"] = "small") -> None:
        super().__init__()
        import_torchvision()
        from torchvision.models import resnet18

        network: Any = resnet18(weights=None, num_classes=spec.classes)
        if stem == "small":
            network.conv1 = nn.Conv2d(spec.channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
            network.maxpool = nn.Identity()
        else:
            network.conv1 = nn.Conv2d(spec.channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        # As torchvision initialises the convolutions that it makes itself.
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)  # (batch, classes)
