"""Image data as whole uint8 tensors: held out, moved to the training device once, normalised batch by batch there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trilab.data.batches import Batch, TensorData
from trilab.data.vision.spec import ImageSpec
from trilab.errors import ConfigError


@dataclass(frozen=True)
class Images:
    """Decoded images of one part of a data set."""

    pixels: Tensor  # (n, channels, height, width) uint8
    labels: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Batch:
        return self.pixels[rows], self.labels[rows]


def normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(pixels / 255 - mean) / std by channel: uint8 (batch, channels, height, width) to float32."""
    return pixels.to(torch.float32, copy=True).sub_(255 * mean).mul_(1 / (255 * std))


class ImageData(TensorData):
    """A classified image set in memory. A subclass says where the images come from: `load`, and `prepare_data`.

    Args:
        batch_size: images of a training batch.
        eval_batch_size: images of a batch in validation and test.
        validation: training images held out for validation, chosen by `seed`.
        mean: mean of each channel on the scale [0, 1], subtracted.
        std: standard deviation of each channel on the scale [0, 1], divided by.
        seed: of the held-out images and of the batches' order.
    """

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        validation: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        self.validation = validation
        self.mean = torch.tensor(list(mean), dtype=torch.float32).view(-1, 1, 1)  # (channels, 1, 1)
        self.std = torch.tensor(list(std), dtype=torch.float32).view(-1, 1, 1)
        self._spec: ImageSpec | None = None

    def load(self) -> tuple[Images, Images, int]:
        """Training images, test images and the number of classes."""
        raise NotImplementedError

    @property
    def spec(self) -> ImageSpec:
        assert self._spec is not None, "setup() comes first"
        return self._spec

    def setup(self, stage: str) -> None:
        if self.parts:
            return
        images, test, classes = self.load()
        channels, height, width = images.pixels.shape[1:]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise ConfigError(
                    f"data.{name}: {len(values)} values for images of {channels} channels. Give one each."
                )
        if self.validation >= len(images):
            raise ConfigError(
                f"data.validation={self.validation}: nothing is left to train on. "
                f"Allowed: 1 to {len(images) - 1}, for there are {len(images):,} training images."
            )
        order = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(images)))
        self.parts = {
            "train": images.take(order[self.validation :]),
            "val": images.take(order[: self.validation]),
            "test": (test.pixels, test.labels),
        }
        self._spec = ImageSpec(channels, height, width, classes)

    def transform(self, batch: Batch) -> Batch:
        pixels, labels = batch
        if self.mean.device != pixels.device:
            self.mean, self.std = self.mean.to(pixels.device), self.std.to(pixels.device)
        return normalize(pixels, self.mean, self.std), labels
