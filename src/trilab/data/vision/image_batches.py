"""Batches of an image set: gathered or decoded as bytes, then augmented and normalised as a whole on the device."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trilab.data.batches import Batch, EpochBatches
from trilab.data.vision.augment import Augmentation
from trilab.data.vision.layout import images_of, lines


class Pixels(Protocol):
    """The images of one part of a data set, wherever they are."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of each."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> "Pixels":
        """Some of them, in that order."""
        ...

    def batches(self, order: Tensor, first: int, batch_size: int) -> Iterator[Tensor]:
        """uint8 (batch, channels, height, width), on any device, in either layout.

        Args:
            order: (n,) int64 on the CPU: the rows to give, in this order.
            first: the number of the batch to begin with.
            batch_size: rows of a batch; the last has what is left.
        """
        ...

    def close(self) -> None:
        """Ends whatever works for it in the background."""
        ...


class HeldPixels:
    """Images in memory, of the host or of a device.

    Args:
        pixels: uint8 (n, channels, height, width), contiguous in either layout.
    """

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: Tensor) -> "HeldPixels":
        return HeldPixels(self._gather(lines(self.pixels), rows.to(self.pixels.device)))

    def placed(self, device: torch.device, layout: torch.memory_format, memory_share: float) -> "HeldPixels":
        """The same in a layout and on a device; on the host where they would take more than a share of what is free."""
        pixels = self.pixels
        if pixels.device != device and pixels.nbytes <= memory_share * free_memory(device):
            pixels = pixels.to(device)
        return HeldPixels(pixels.contiguous(memory_format=layout))

    def batches(self, order: Tensor, first: int, batch_size: int) -> Iterator[Tensor]:
        rows, order = lines(self.pixels), order.to(self.pixels.device)
        for start in range(first * batch_size, len(order), batch_size):
            yield self._gather(rows, order[start : start + batch_size])

    def close(self) -> None:
        """There is nothing to end."""

    def _gather(self, rows: Tensor, index: Tensor) -> Tensor:
        # Two axes, for index_select copies each row of a contiguous matrix at once.
        taken = rows.view(len(rows), -1).index_select(0, index)
        return images_of(taken.view(len(index), *rows.shape[1:]), self.pixels.shape[1])


class Normalization:
    """(pixels / 255 - mean) / std by channel, as one multiplication and addition: uint8 to float32, layout kept.

    Args:
        mean: of each channel on the scale [0, 1].
        std: of each channel on the scale [0, 1].
        height: of the images, pixels.
        width: of the images, pixels.
        device: where the images are.
        layout: of the images.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        height: int,
        width: int,
        device: torch.device | None = None,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.channels = len(mean)
        scale = torch.tensor([1 / (255 * deviation) for deviation in std], dtype=torch.float32)
        shift = torch.tensor([-m / deviation for m, deviation in zip(mean, std, strict=True)], dtype=torch.float32)
        # As large as an image: broadcasting along the batch is vectorised, along the channels it is not.
        self._scale, self._shift = (
            lines(value.view(1, -1, 1, 1).expand(1, -1, height, width).contiguous(memory_format=layout)).to(device)
            for value in (scale, shift)
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        values = lines(pixels).to(torch.float32)
        return images_of(torch.addcmul(self._shift, values, self._scale, out=values), self.channels)


class ImageBatches(EpochBatches):
    """The batches of labelled images, `(images, labels)`, on a device.

    Args:
        pixels: the images.
        labels: (n,) int64, anywhere.
        batch_size: images of a batch; the last batch of an epoch has what is left.
        normalize: bytes to numbers.
        device: of the batches.
        layout: of the batches.
        augment: what the images undergo, drawn anew in each epoch; None for nothing.
        shuffle: a new permutation of the images in each epoch.
        seed: of the permutations and of the augmentation.
    """

    def __init__(
        self,
        pixels: Pixels,
        labels: Tensor,
        batch_size: int,
        normalize: Normalization,
        device: torch.device,
        layout: torch.memory_format,
        *,
        augment: Augmentation | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(len(labels), batch_size, shuffle=shuffle, seed=seed)
        self.pixels = pixels
        self.labels = labels.to(device)
        self._normalize = normalize
        self._device = device
        self._layout = layout
        self._augment = augment if augment is not None and augment.active else None

    @property
    def streamed(self) -> bool:
        """Whether the images are read from their files in each epoch."""
        return not isinstance(self.pixels, HeldPixels)

    def epoch(self, number: int, first: int) -> Iterator[Batch]:
        generator = self.generator(number)
        order = torch.randperm(self.rows, generator=generator) if self._shuffle else torch.arange(self.rows)
        _, height, width = self.pixels.shape
        labels = self.labels.index_select(0, order.to(self._device))
        draws = None
        if self._augment is not None:
            draws = self._augment.draw(order, number, self.seed, height, width).to(self._device)
        start = first * self.batch_size
        for batch in self.pixels.batches(order, first, self.batch_size):
            rows = slice(start, start := start + self.batch_size)
            pixels = to_device(batch, self._device).contiguous(memory_format=self._layout)
            if self._augment is None or draws is None:
                yield self._normalize(pixels), labels[rows]
            else:
                drawn = draws[rows]
                images = self._normalize(self._augment.pixels(pixels, drawn))
                yield self._augment.images(images, drawn), labels[rows]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. The copy to CUDA goes on beside what the host does next, as pinned memory allows."""
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # of a cache of torch's own that waits for the copy before it gives memory anew
    return tensor.to(device, non_blocking=True)


def free_memory(device: torch.device) -> float:
    """Bytes that a device has free; infinite for one that is the host itself, or does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return float("inf")
