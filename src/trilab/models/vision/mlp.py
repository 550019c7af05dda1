"""A fully connected network on pixels: 784-128-10 on MNIST (101,770 parameters).

The first example of most tutorials. Expected: 97.5 to 98% of the MNIST test images right after five epochs.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from trilab.data.vision.spec import ImageSpec
from trilab.ranges import PositiveInt


class MLP(nn.Module):
    """Hidden layers with ReLU, then the logits.

    Args:
        hidden: units of each hidden layer.
    """

    def __init__(self, spec: ImageSpec, hidden: Sequence[PositiveInt] = (128,)) -> None:
        super().__init__()
        widths = (spec.channels * spec.height * spec.width, *hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], spec.classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)  # (batch, classes)
