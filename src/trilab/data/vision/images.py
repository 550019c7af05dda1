"""Image data as whole uint8 tensors: held out, moved to the training device once, normalised batch by batch there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from trilab.data.batches import Batch, TensorBatches
from trilab.data.vision.spec import ImageSpec
from trilab.errors import ConfigError


@dataclass(frozen=True)
class Images:
    """Decoded images of one part of a data set."""

    pixels: Tensor  # (n, channels, height, width) uint8
    labels: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "Images":
        return Images(self.pixels[rows], self.labels[rows])

    def to(self, device: torch.device) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))


def normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(pixels / 255 - mean) / std by channel: uint8 (batch, channels, height, width) to float32."""
    return pixels.float().sub_(255 * mean).mul_(1 / (255 * std))


class ImageData(LightningDataModule):
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
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.validation = validation
        self.mean = torch.tensor(list(mean)).view(-1, 1, 1)  # (channels, 1, 1)
        self.std = torch.tensor(list(std)).view(-1, 1, 1)
        self.seed = seed
        self._parts: dict[str, Images] = {}
        self._spec: ImageSpec | None = None

    def load(self) -> tuple[Images, Images, int]:
        """Training images, test images and the number of classes."""
        raise NotImplementedError

    @property
    def spec(self) -> ImageSpec:
        assert self._spec is not None, "setup() comes first"
        return self._spec

    @property
    def reference(self) -> dict[str, float]:
        """Values of metrics that are known beforehand; none here."""
        return {}

    def setup(self, stage: str) -> None:
        if self._parts:
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
        self._parts = {
            "train": images.take(order[self.validation :]),
            "val": images.take(order[: self.validation]),
            "test": test,
        }
        self._spec = ImageSpec(channels, height, width, classes)

    def train_dataloader(self) -> TensorBatches:
        shuffle = not (self.trainer and self.trainer.overfit_batches)  # which means the same batches in each epoch
        return self._batches("train", self.batch_size, shuffle)

    def val_dataloader(self) -> TensorBatches:
        return self._batches("val", self.eval_batch_size)

    def test_dataloader(self) -> TensorBatches:
        return self._batches("test", self.eval_batch_size)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # it is there already

    def _batches(self, name: str, batch_size: int, shuffle: bool = False) -> TensorBatches:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        part = self._parts[name] = self._parts[name].to(device)
        mean, std = self.mean.to(device), self.std.to(device)

        def transform(batch: Batch) -> Batch:
            pixels, labels = batch
            return normalize(pixels, mean, std), labels

        return TensorBatches(
            (part.pixels, part.labels), batch_size, shuffle=shuffle, seed=self.seed, transform=transform
        )
