"""Images drawn around a prototype of each class, so that nothing is read and the best possible result is known.

A prototype is a smooth random image: normal numbers on a grid of 4x4, enlarged bicubically, then shifted and scaled to
mean 0 and variance 1 over its pixels and channels. An image of class c is

    x = p_c + noise * e,    e ~ N(0, 1) for each pixel and channel,

stored as bytes, round(127.5 + 42.5 x / sqrt(1 + noise^2)), cut off at 0 and 255: three standard deviations on each
side. All classes being as likely and the noise being equal in all directions, no classifier beats the nearest prototype
on average (but for rounding and cutting off).
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trilab.data.vision.augment import Augmentation
from trilab.data.vision.images import ImageData, Images
from trilab.errors import ConfigError
from trilab.ranges import NonNegativeFloat, NonNegativeInt, PositiveFraction, PositiveInt

_GRID = 4
_MIDDLE, _SPREAD = 127.5, 42.5  # of the bytes; a sixth of 255 for a standard deviation


class FakeImages(ImageData):
    """Noisy copies of one random prototype for each class.

    The prototypes and each part have a random stream of their own: more training images leave the test as it was.

    Args:
        channels: of an image.
        height: of an image, pixels.
        width: of an image, pixels.
        classes: how many.
        train_images: to train on, those of validation included.
        test_images: to test on.
        noise: standard deviation of a pixel's noise, that of a prototype's pixels being 1.
        prototype_seed: of the prototypes, so that runs with several seeds learn the same ones.
        batch_size: images of a training batch.
        eval_batch_size: images of a batch in validation and test.
        validation: training images held out for validation, chosen by `seed`; 0 for no validation.
        seed: of the images drawn, of the held-out ones, of the batches' order and of the augmentation.
        augment: what training images undergo; None for nothing.
        memory_share: of the device's free memory that a part of the set may take; else it stays in the host's.
    """

    def __init__(
        self,
        channels: PositiveInt,
        height: PositiveInt,
        width: PositiveInt,
        classes: PositiveInt,
        train_images: PositiveInt,
        test_images: PositiveInt,
        noise: NonNegativeFloat,
        prototype_seed: NonNegativeInt,
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        validation: NonNegativeInt,
        seed: NonNegativeInt,
        augment: Augmentation | None = None,
        memory_share: PositiveFraction = 0.5,
    ) -> None:
        mean, std = [_MIDDLE / 255] * channels, [_SPREAD / 255] * channels
        super().__init__(batch_size, eval_batch_size, validation, mean, std, seed, augment, memory_share)
        if classes < 2:
            raise ConfigError(f"data.classes={classes}: to tell classes apart takes two at least.")
        self.shape = (channels, height, width)
        self.classes = classes
        self.images = {"train": train_images, "test": test_images}
        self.noise = noise
        self.prototype_seed = prototype_seed
        self._reference: dict[str, float] = {}

    @property
    def reference(self) -> dict[str, float]:
        """Accuracy of the nearest prototype on the test images: what a perfect model would score."""
        return dict(self._reference)

    def prototypes(self) -> Tensor:
        """(classes, channels, height, width), of mean 0 and variance 1 each."""
        rng = np.random.default_rng((self.prototype_seed, len(self.images)))  # a stream that no part of any seed has
        channels, height, width = self.shape
        grid = torch.from_numpy(rng.normal(size=(self.classes, channels, _GRID, _GRID))).float()
        smooth = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
        flat = smooth.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / flat.std(1, correction=0, keepdim=True).clamp(min=1e-6)
        return flat.view(smooth.shape)

    def load(self) -> tuple[Images, Images, int]:
        prototypes = self.prototypes()
        train, test = (self._draw(prototypes, number, count) for number, count in enumerate(self.images.values()))
        scale = math.sqrt(1 + self.noise**2) / _SPREAD
        values = (test[0].float() - _MIDDLE) * scale
        nearest = torch.cdist(values.flatten(1), prototypes.flatten(1)).argmin(1)
        self._reference = {"test/nearest_prototype_accuracy": float((nearest == test[1]).float().mean())}
        return Images.of(*train), Images.of(*test), self.classes

    def _draw(self, prototypes: Tensor, number: int, count: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, number))
        labels = torch.from_numpy(rng.permutation(np.arange(count, dtype=np.int64) % self.classes))
        values = torch.from_numpy(rng.standard_normal((count, *self.shape), np.float32)).mul_(self.noise)
        values += prototypes[labels]
        pixels = values.mul_(_SPREAD / math.sqrt(1 + self.noise**2)).add_(_MIDDLE).round_().clamp_(0, 255)
        return pixels.to(torch.uint8), labels
