"""Augmentation of whole batches of images, on their device: random crop, flip, cutout.

All that is random is drawn on the CPU, for a whole epoch at once, as a function of the seed and the epoch: so devices
draw alike, and a run that was resumed within an epoch goes on as one that never stopped.

**Crop.** The image is padded by `crop` pixels on each side by reflection (the border itself is not repeated), and a
window of the image's size is cut out, its place uniform: He et al. 2016, section 4.2
(https://arxiv.org/abs/1512.03385), with reflection in place of zeros as in Jordan 2024.

**Flip.** Left and right change places. `random`: each image with probability 1/2, anew in each epoch. `alternating`
(Jordan 2024, section 3.6, https://arxiv.org/abs/2404.00498): with probability 1/2 in epoch 0, and in every later epoch
if and only if it was not in the one before, so that two consecutive epochs show each image from both sides:

    flip(image, epoch) = (coin(seed, image) + epoch) mod 2.

**Cutout** (DeVries & Taylor 2017, https://arxiv.org/abs/1708.04552). A square of `side` pixels, whose centre (y, x) is
uniform over the image's pixels, covers the rows y - side // 2 to y - side // 2 + side - 1 and the columns likewise;
what of it lies outside is cut off. It is filled with 0 after normalisation, which is the mean of each channel.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trilab.data.vision.layout import images_of, lines
from trilab.errors import ConfigError
from trilab.ranges import NonNegativeInt

#: Of the random streams, beside the seed: the order of an epoch's rows has none.
_EPOCH_STREAM, _COIN_STREAM = 1, 2


@dataclass(frozen=True)
class Draws:
    """What was drawn for some images, each tensor (n,) int64; zeros where there was nothing to draw."""

    top: Tensor  # of the crop's window in the padded image, pixels
    left: Tensor
    flipped: Tensor  # 1 for an image to be flipped, 0 for one that is not
    y: Tensor  # the cutout's centre, pixels
    x: Tensor

    def __getitem__(self, rows: slice) -> "Draws":
        return Draws(self.top[rows], self.left[rows], self.flipped[rows], self.y[rows], self.x[rows])

    def to(self, device: torch.device) -> "Draws":
        top, left, flipped, y, x = torch.stack([self.top, self.left, self.flipped, self.y, self.x]).to(device)
        return Draws(top, left, flipped, y, x)


@dataclass(frozen=True)
class Augmentation:
    """What training images undergo; images of validation and test are left as they are.

    Args:
        crop: pixels of reflected padding on each side, of which a window of the image's size is cut; 0 for none.
        flip: left and right change places: of no image, of random ones, or alternating between epochs.
        cutout: side of the square that is blanked, pixels; 0 for none.
    """

    crop: NonNegativeInt = 0
    flip: Literal["none", "random", "alternating"] = "none"
    cutout: NonNegativeInt = 0

    @property
    def active(self) -> bool:
        """Whether anything is done at all."""
        return self != Augmentation()

    def check(self, height: int, width: int) -> None:
        """Raises ConfigError where images of that size cannot undergo it."""
        most = min(height, width) - 1
        if self.crop > most:
            raise ConfigError(
                f"data.augment.crop={self.crop}: images of {height}x{width} can be padded by reflection with at most "
                f"{most} pixels."
            )

    def draw(self, order: Tensor, epoch: int, seed: int, height: int, width: int) -> Draws:
        """What the images of an epoch undergo.

        Args:
            order: (n,) int64 on the CPU: the index of the image that comes first, second, ...
            epoch: its number.
            seed: of all that is drawn.
            height: of the images, pixels.
            width: of the images, pixels.
        """
        n, generator = len(order), _generator(seed, _EPOCH_STREAM, epoch)
        top, left = torch.randint(2 * self.crop + 1, (2, n), generator=generator)
        flipped = torch.zeros(n, dtype=torch.int64)
        if self.flip == "random":
            flipped = torch.randint(2, (n,), generator=generator)
        elif self.flip == "alternating":
            coins = torch.randint(2, (n,), generator=_generator(seed, _COIN_STREAM, 0))
            flipped = (coins[order] + epoch) % 2
        y = torch.randint(height, (n,), generator=generator)
        x = torch.randint(width, (n,), generator=generator)
        return Draws(top, left, flipped, y, x)

    def pixels(self, pixels: Tensor, draws: Draws) -> Tensor:
        """What is done before normalisation, to bytes: uint8 (n, channels, height, width), layout kept."""
        if not self.crop and self.flip == "none":
            return pixels
        return crop_and_flip(pixels, self.crop, draws.top, draws.left, draws.flipped)

    def images(self, images: Tensor, draws: Draws) -> Tensor:
        """What is done after normalisation, in place: float (n, channels, height, width)."""
        return cutout(images, self.cutout, draws.y, draws.x) if self.cutout else images


def crop_and_flip(images: Tensor, padding: int, top: Tensor, left: Tensor, flipped: Tensor) -> Tensor:
    """Some images with left and right changed, padded by reflection, of which windows of their own size are cut.

    Each line of the result is one run of memory, and all of them are one indexing operation. For let r(j) be a row of
    the image, r(0) ... r(width - 1), reflected at both ends again and again. The flipped row is r(width - 1 - j) =
    r(j - (width - 1)), so it is a window of the same endless row. A strip of it from j = -(width - 1) - padding to
    (width - 1) + padding holds each window that may be asked for. Above and below, a row outside the image is read from
    where it is reflected from.

    Args:
        images: (n, channels, height, width), of any type.
        padding: pixels, less than height and width.
        top: (n,) int64, from 0 to 2 padding: the window's first row in the padded image.
        left: (n,) int64, likewise the first column.
        flipped: (n,) int64, 1 for an image to flip before it is padded, 0 for one to leave.

    Returns:
        (n, channels, height, width), in the layout of the images.
    """
    channels, width = images.shape[1], images.shape[3]
    rows, mirrored = lines(images), lines(images.flip(3))
    n, planes, height, line = rows.shape
    step = line // width  # numbers of a pixel in a line
    last = line - step  # where a line's last pixel begins
    edge = padding * step
    strip = torch.cat(
        [rows[..., last - edge : last], mirrored[..., :last], rows, mirrored[..., step : step + edge]], dim=3
    )

    offset = (top - padding).unsqueeze(1) + torch.arange(height, device=top.device)  # (n, height), may lie outside
    row = (height - 1) - ((height - 1) - offset.abs()).abs()  # reflected at 0 and at height - 1
    image = torch.arange(n * planes, device=top.device).view(n, planes, 1)
    column = left + (1 - flipped) * (width - 1)  # (n,), of the strip
    start = (image * height + row.unsqueeze(1)) * (strip.shape[3] // step) + column.view(n, 1, 1)  # in pixels
    windows = strip.view(-1).unfold(0, line, step).index_select(0, start.view(-1))  # (n * planes * height, line)
    return images_of(windows.view(n, planes, height, line), channels)


def cutout(images: Tensor, side: int, y: Tensor, x: Tensor) -> Tensor:
    """Blanks a square of each image, in place; what of it lies outside is cut off.

    Args:
        images: float (n, channels, height, width).
        side: pixels.
        y: (n,) int64, the row of the square's centre; an even side has one row more above it than below.
        x: (n,) int64, the column likewise.
    """
    height, width = images.shape[2:]
    rows = lines(images)
    row = torch.arange(height, device=images.device) - y.unsqueeze(1) + side // 2  # (n, height), in the square
    column = torch.arange(width, device=images.device) - x.unsqueeze(1) + side // 2
    column = column.repeat_interleave(rows.shape[3] // width, 1)  # (n, line)
    above, beside = ((at < 0) | (at >= side) for at in (row, column))
    rows *= torch.maximum(above.float().unsqueeze(2), beside.float().unsqueeze(1)).unsqueeze(1)
    return images


def _generator(seed: int, stream: int, epoch: int) -> torch.Generator:
    state = int(np.random.SeedSequence((seed, epoch), spawn_key=(stream,)).generate_state(1)[0])
    return torch.Generator().manual_seed(state)
