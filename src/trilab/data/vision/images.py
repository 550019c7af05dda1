"""A classified image set: held out for validation, brought to the training device, given in whole batches there.

Where the images are in memory they are one uint8 tensor, on the training device where it has room for them, and a batch
is an indexing operation; augmentation and normalisation are done to the batch as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trilab.data.batches import TensorData
from trilab.data.contents import Contents, Part, content_key
from trilab.data.vision.augment import Augmentation
from trilab.data.vision.image_batches import HeldPixels, ImageBatches, Normalization, Pixels, to_device
from trilab.data.vision.layout import layout_of
from trilab.data.vision.spec import ImageSpec
from trilab.errors import ConfigError


@dataclass(frozen=True)
class Images:
    """One part of a data set."""

    pixels: Pixels
    labels: Tensor  # (n,) int64

    @classmethod
    def of(cls, pixels: Tensor, labels: Tensor) -> "Images":
        """Decoded images: uint8 (n, channels, height, width), contiguous in either layout."""
        return cls(HeldPixels(pixels), labels)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "Images":
        return Images(self.pixels.take(rows), self.labels[rows])


class ImageData(TensorData):
    """A classified image set. A subclass says where the images come from: `load`, and `prepare_data`.

    Args:
        batch_size: images of a training batch.
        eval_batch_size: images of a batch in validation and test.
        validation: training images held out for validation, chosen by `seed`; 0 for no validation.
        mean: mean of each channel on the scale [0, 1], subtracted.
        std: standard deviation of each channel on the scale [0, 1], divided by.
        seed: of the held-out images, of the batches' order and of the augmentation.
        augment: what training images undergo, those of `trainer.overfit_batches` included; None for nothing.
        memory_share: of the device's free memory that a part of the set may take; else it stays in the host's, and
            its batches are moved.
    """

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        validation: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        augment: Augmentation | None = None,
        memory_share: float = 0.5,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        self.validation = validation
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.augment = augment or Augmentation()
        self.memory_share = memory_share
        self._images: dict[str, Images] = {}
        self._spec: ImageSpec | None = None

    def load(self) -> tuple[Images, Images, int]:
        """Training images, test images and the number of classes."""
        raise NotImplementedError

    @property
    def spec(self) -> ImageSpec:
        assert self._spec is not None, "setup() comes first"
        return self._spec

    def setup(self, stage: str) -> None:
        if self._images:
            return
        images, test, classes = self.load()
        channels, height, width = images.pixels.shape
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise ConfigError(
                    f"data.{name}: {len(values)} values for images of {channels} channels. Give one each."
                )
        self.augment.check(height, width)
        if self.validation >= len(images):
            raise ConfigError(
                f"data.validation={self.validation}: nothing is left to train on. "
                f"Allowed: 0 to {len(images) - 1}, for there are {len(images):,} training images."
            )
        # Shuffled even where nothing is held out: the first images are then a fair sample of all.
        order = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(images)))
        self._keep("train", images.take(order[self.validation :]))
        if self.validation:
            self._keep("val", images.take(order[: self.validation]))
        self._keep("test", test)
        self._spec = ImageSpec(channels, height, width, classes)

    def contents(self) -> Contents:
        spec, parts = self.spec, {}
        for name, images in self._images.items():
            held = (images.pixels.pixels,) if isinstance(images.pixels, HeldPixels) else ()  # a stream has labels alone
            parts[name] = Part({"images": len(images), "classes": spec.classes}, content_key([*held, images.labels]))
        return Contents(parts, features=("float32", (spec.channels, spec.height, spec.width)), targets=("int64", ()))

    def first_images(self, count: int) -> Tensor:
        """The first training images as a network would see them without augmentation, on the training device.

        They are a random sample of the training images, a function of the data and of `seed` alone.

        Returns:
            float32 (count, channels, height, width), normalised; fewer where there are fewer.
        """
        device, layout = self._place("train")
        normalize = self._normalization(device, layout)
        pixels = self._images["train"].pixels
        sample = pixels.take(torch.arange(min(count, len(pixels))))  # of its own: training may have begun on the others
        batches = sample.batches(torch.arange(len(sample)), 0, self.eval_batch_size)
        try:
            return torch.cat(
                [normalize(to_device(batch, device).contiguous(memory_format=layout)) for batch in batches]
            )
        finally:
            sample.close()

    def train_dataloader(self) -> ImageBatches:  # type: ignore[override]
        overfit = getattr(self.trainer, "overfit_batches", 0)  # means the same batches in each epoch
        return self._batches("train", self.batch_size, shuffle=not overfit)

    def val_dataloader(self) -> ImageBatches | list[ImageBatches]:  # type: ignore[override]
        return self._batches("val", self.eval_batch_size) if self.validation else []

    def test_dataloader(self) -> ImageBatches:  # type: ignore[override]
        return self._batches("test", self.eval_batch_size)

    def teardown(self, stage: str) -> None:
        for images in self._images.values():
            images.pixels.close()

    def _batches(self, name: str, batch_size: int, shuffle: bool = False) -> ImageBatches:  # type: ignore[override]
        device, layout = self._place(name)
        images = self._images[name]
        return ImageBatches(
            images.pixels,
            images.labels,
            batch_size,
            self._normalization(device, layout),
            device,
            layout,
            augment=self.augment if name == "train" else None,
            shuffle=shuffle,
            seed=self.seed,
        )

    def _keep(self, name: str, images: Images) -> None:
        self._images[name] = images
        if isinstance(images.pixels, HeldPixels):
            self.parts[name] = (images.pixels.pixels, images.labels)

    def _place(self, name: str) -> tuple[torch.device, torch.memory_format]:
        """Brings a part to where its batches are wanted, and says where and in which layout that is."""
        if self.trainer is None:
            device, layout = torch.device("cpu"), torch.contiguous_format
        else:
            device = self.trainer.strategy.root_device
            module = self.trainer.lightning_module
            layout = layout_of(module.parameters() if module is not None else ())
        images = self._images[name]
        if isinstance(images.pixels, HeldPixels):
            self._keep(name, Images(images.pixels.placed(device, layout, self.memory_share), images.labels))
        return device, layout

    def _normalization(self, device: torch.device, layout: torch.memory_format) -> Normalization:
        return Normalization(self.mean, self.std, self.spec.height, self.spec.width, device, layout)
