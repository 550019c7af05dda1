"""The 8-layer network of the CIFAR-10 speed run: 94% in 3.29 s on an A100.

Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (https://arxiv.org/abs/2404.00498). Section 3.1: a 2x2
convolution without padding, three groups of two 3x3 convolutions, a global max pooling, and logits times 1/9:

    3x32x32 -conv-> 24x31x31 -group-> 64x15x15 -group-> 256x7x7 -group-> 256x3x3 -max-> 256 -> 10
    group: conv, 2x2 max pooling, BatchNorm, GELU, conv, BatchNorm, GELU

2.0 million parameters (1,972,792). Its parts, each of which can be switched off:

- the first layer whitens 2x2 patches (section 3.2, `trilab.models.vision.whitening`): its filters are frozen, its bias
  is trained for the first epochs;
- the other convolutions begin as the identity on as many channels as come in (section 3.3): a Dirac kernel in each of
  the first output channels, the usual random filters in the rest;
- BatchNorm has no learned scale, and running statistics that follow within a few batches.

The rest of the recipe stands elsewhere: alternating flip and crops in the data's `augment`, the rates in
`DecoupledSGD`, the triangle in `Triangular`, Lookahead, label smoothing and test-time augmentation in `Classifier`.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trilab.data.vision.spec import ImageSpec
from trilab.errors import ConfigError
from trilab.models.vision.whitening import patch_moments, whitening_filters
from trilab.ranges import Fraction, NonNegativeInt, PositiveFloat, PositiveInt

_PATCH = 2  # side of the first layer's filters
_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class Airbench(nn.Module):
    """Whitening layer, three groups of convolutions, logits.

    Args:
        widths: output channels of each group.
        whiten: whiten patches in the first layer; false trains it as any other.
        whiten_images: training images that the whitening is computed from.
        whiten_eps: added to the eigenvalues.
        whiten_bias_epochs: epochs in which the whitening layer's bias is trained.
        dirac: begin the other convolutions as the identity.
        norm_scale: train BatchNorm's scale too.
        norm_momentum: share of BatchNorm's running statistics that a batch leaves; torch's own `momentum` is 1 less it.
        norm_eps: added to BatchNorm's variance.
        activation: after the first layer and after each BatchNorm.
        logit_scale: factor of the logits.
    """

    def __init__(
        self,
        spec: ImageSpec,
        widths: tuple[PositiveInt, PositiveInt, PositiveInt] = (64, 256, 256),
        whiten: bool = True,
        whiten_images: PositiveInt = 5000,
        whiten_eps: PositiveFloat = 5e-4,
        whiten_bias_epochs: NonNegativeInt = 3,
        dirac: bool = True,
        norm_scale: bool = False,
        norm_momentum: Fraction = 0.6,
        norm_eps: PositiveFloat = 1e-12,
        activation: Literal["gelu", "relu"] = "gelu",
        logit_scale: PositiveFloat = 1 / 9,
    ) -> None:
        super().__init__()
        if min(spec.height, spec.width) < 9:
            raise ConfigError(
                f"model=vision/airbench halves images three times, and {spec.height}x{spec.width} leaves nothing. "
                "Use images of 9x9 and more."
            )
        self.initialization_images = whiten_images if whiten else 0
        self._whiten_eps, self._whiten_bias_epochs = whiten_eps, whiten_bias_epochs
        filters = 2 * spec.channels * _PATCH**2  # each in both signs
        activate = _ACTIVATIONS[activation]

        self.first = nn.Conv2d(spec.channels, filters, _PATCH)
        if whiten:
            self.first.weight.requires_grad_(False)
            nn.init.zeros_(self.first.bias)  # type: ignore[arg-type]  # it has one
        self.activation = activate()
        groups: list[nn.Module] = []
        before = filters
        for width in widths:
            groups += [
                _convolution(before, width, dirac), nn.MaxPool2d(2),
                _norm(width, norm_momentum, norm_eps, norm_scale), activate(),
                _convolution(width, width, dirac),
                _norm(width, norm_momentum, norm_eps, norm_scale), activate(),
            ]  # fmt: skip
            before = width
        self.groups = nn.Sequential(*groups)
        self.logits = nn.Linear(before, spec.classes, bias=False)
        self.logit_scale = logit_scale

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Makes the first layer whiten these images' patches, (n, channels, height, width) normalised."""
        filters = whitening_filters(patch_moments(images, _PATCH), self._whiten_eps)  # (d, d)
        self.first.weight.copy_(torch.cat([filters, -filters]).view_as(self.first.weight))

    def start_epoch(self, epoch: int) -> None:
        """Freezes the whitening layer's bias once it has been trained for its epochs."""
        if self.initialization_images:
            self.first.bias.requires_grad_(epoch < self._whiten_bias_epochs)  # type: ignore[union-attr]  # it has one

    def forward(self, images: Tensor) -> Tensor:
        features = self.groups(self.activation(self.first(images)))  # (batch, width, height / 8, width / 8)
        pooled = F.max_pool2d(features, features.shape[-2:]).flatten(1)
        return self.logits(pooled) * self.logit_scale  # (batch, classes)


def _convolution(before: int, after: int, dirac: bool) -> nn.Conv2d:
    layer = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)
    if dirac:
        with torch.no_grad():
            nn.init.dirac_(layer.weight[:before])
    return layer


def _norm(width: int, momentum: float, eps: float, scale: bool) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width, eps=eps, momentum=1 - momentum)
    norm.weight.requires_grad_(scale)
    return norm
