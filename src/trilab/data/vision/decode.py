"""Image files to arrays of bytes.

Images are turned upright as their EXIF data say, and made grey or RGB whatever they were; transparency is dropped.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trilab.errors import UserError

Pixels = NDArray[np.uint8]
#: Names of files that are images; others are no part of a set.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_MODES = {"rgb": "RGB", "grey": "L"}
#: Pillow's modes of 8 bits a channel, or 1; the others would lose what makes them differ.
_EIGHT_BITS = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
_ORIENTATION = 0x0112  # EXIF's tag
_AT_ONCE = 256  # images of a task: few enough to stop soon, many enough that handing them out costs nothing


@dataclass(frozen=True)
class Decoding:
    """What becomes of an image file.

    Args:
        mode: three channels or one.
        image_size: the shorter side is resized to so many pixels (bilinear, antialiased) and the square in the middle
            is kept; None keeps images as they are.
    """

    mode: Literal["rgb", "grey"]
    image_size: int | None

    def __call__(self, path: Path) -> Pixels:
        """(height, width, channels).

        Raises:
            UserError: the file cannot be read as an image.
        """
        try:
            with Image.open(path) as image:
                if image.mode not in _EIGHT_BITS:
                    raise UserError(
                        f"{path}: pixels of the kind '{image.mode}', where 8 bits a channel are needed. Convert it."
                    )
                image.load()
                upright = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
                array = np.asarray(self._resized(_converted(upright, _MODES[self.mode])))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # Pillow repeats the path where it cannot tell what the file is.
            why = "it is no image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or repr(error)
            raise UserError(f"{path} cannot be read: {why}. Replace it, or delete it.") from None
        return array.reshape(*array.shape[:2], -1)

    def all(self, root: Path, names: Sequence[str], shape: tuple[int, ...], out: Pixels, threads: int) -> None:
        """Decodes files into the rows of `out`, (n, height, width, channels).

        Args:
            root: of the names.
            names: of the files below it.
            shape: that all must have, which is the first one's.
            out: is written to.
            threads: that decode at once; Pillow lets others work while it does.
        """

        def some(start: int) -> None:
            for row, name in enumerate(names[start : start + _AT_ONCE], start):
                out[row] = self.of_shape(root, name, shape, names[0])

        with ThreadPoolExecutor(threads) as pool:
            tasks = [pool.submit(some, start) for start in range(0, len(names), _AT_ONCE)]
            try:
                for task in tasks:  # in their order, so that the first bad file is the one that is named
                    task.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def of_shape(self, root: Path, name: str, shape: tuple[int, ...], first: str) -> Pixels:
        """One image, which must have the first one's shape."""
        pixels = self(root / name)
        if pixels.shape != shape:
            sizes = [f"{size[1]}x{size[0]}" for size in (shape, pixels.shape)]
            raise UserError(
                f"{root}: images of several sizes: {first} is {sizes[0]} and {name} is {sizes[1]}. "
                f"Set data.image_size={min(*shape[:2], *pixels.shape[:2])}, or another, to resize and crop them all."
            )
        return pixels

    def _resized(self, image: Image.Image) -> Image.Image:
        if self.image_size is None:
            return image
        side, (width, height) = self.image_size, image.size
        scale = side / min(width, height)
        width, height = max(side, round(width * scale)), max(side, round(height * scale))
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - side) // 2, (height - side) // 2
        return image.crop((left, top, left + side, top + side))


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("P", "PA"):  # whose transparency is part of the palette
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def processors() -> int:
    """How many this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
