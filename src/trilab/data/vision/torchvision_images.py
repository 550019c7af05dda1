"""MNIST and Fashion-MNIST through torchvision: downloaded where there is internet, else read from the data folder."""

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from trilab.data.vision.augment import Augmentation
from trilab.data.vision.download import attempt
from trilab.data.vision.images import ImageData, Images
from trilab.errors import UserError
from trilab.ranges import NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt
from trilab.runtime import import_torchvision

_CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
#: What a file of the idx format begins with: two zeros, the type (8: uint8), the number of dimensions.
_MAGIC = {3: bytes((0, 0, 8, 3)), 1: bytes((0, 0, 8, 1))}


class TorchvisionImages(ImageData):
    """MNIST (LeCun et al. 1998) or Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of 28x28, 10 classes.

    Args:
        dataset: which.
        root: folder of all data sets; the files lie in `<root>/MNIST/raw`, as torchvision has them.
        download: fetch the files where they are missing.
        batch_size: images of a training batch.
        eval_batch_size: images of a batch in validation and test.
        validation: training images held out for validation, chosen by `seed`; 0 for no validation.
        mean: mean of each channel on the scale [0, 1], subtracted.
        std: standard deviation of each channel on the scale [0, 1], divided by.
        seed: of the held-out images, of the batches' order and of the augmentation.
        augment: what training images undergo; None for nothing.
        memory_share: of the device's free memory that a part of the set may take; else it stays in the host's.
    """

    def __init__(
        self,
        dataset: Literal["mnist", "fashion_mnist"],
        root: str,
        download: bool,
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        validation: NonNegativeInt,
        mean: Sequence[float],
        std: Sequence[PositiveFloat],
        seed: NonNegativeInt,
        augment: Augmentation | None = None,
        memory_share: PositiveFraction = 0.5,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, validation, mean, std, seed, augment, memory_share)
        self.dataset = dataset
        self.download = download
        self._class = _torchvision_class(dataset)
        self._root = Path(root).absolute()
        self._folder = self._root / self._class.__name__ / "raw"

    def prepare_data(self) -> None:
        if not (missing := self._missing()):
            return
        why = "data.download is false"
        if self.download:
            why = attempt(lambda: self._class(str(self._root), download=True)) or "they are not in the download"
            if not (missing := self._missing()):
                return
            for folder in (self._folder, self._folder.parent):
                with suppress(OSError):  # not empty; torchvision makes them before it downloads
                    folder.rmdir()
        raise UserError(
            f"{self.dataset}: {', '.join(missing)} not found in {self._folder}, and {why}. Fetch each with .gz at its "
            f"end from {self._class.mirrors[0]}, unpack them into that folder, or set TRILAB_DATA_DIR to the folder "
            f"that holds {self._class.__name__}/raw."
        )

    def load(self) -> tuple[Images, Images, int]:
        classes = len(self._class.classes)
        return self._read("train", classes), self._read("t10k", classes), classes

    def _files(self) -> list[str]:
        return [name.removesuffix(".gz") for name, _ in self._class.resources]

    def _missing(self) -> list[str]:
        return [name for name in self._files() if not (self._folder / name).is_file()]

    def _read(self, part: str, classes: int) -> Images:
        images, labels = self._folder / f"{part}-images-idx3-ubyte", self._folder / f"{part}-labels-idx1-ubyte"
        for path, dimensions in ((images, 3), (labels, 1)):
            if fault := idx_fault(path, dimensions):
                raise self._corrupt(path, fault)
        data = self._class(str(self._root), train=part == "train")
        pixels, targets = data.data.unsqueeze(1), data.targets.to(torch.int64)
        if len(pixels) != len(targets):
            raise self._corrupt(labels, f"{len(targets):,} labels for {len(pixels):,} images")
        if (highest := int(targets.max())) >= classes:
            raise self._corrupt(labels, f"a label {highest}, where 0 to {classes - 1} are allowed")
        return Images.of(pixels.contiguous(), targets)

    def _corrupt(self, path: Path, fault: str) -> UserError:
        source = self._class.mirrors[0] + path.name + ".gz"
        return UserError(f"{path} is corrupt: {fault}. Delete it, fetch {source} and unpack it there.")


def idx_fault(path: Path, dimensions: int) -> str:
    """What is wrong with a uint8 file in the idx format (http://yann.lecun.com/exdb/mnist/), or an empty string.

    The format: 4 bytes that say type and number of dimensions, 4 bytes for each dimension's size (big-endian), values.
    """
    header = 4 * (1 + dimensions)
    with path.open("rb") as file:
        head = file.read(header)
    size = path.stat().st_size
    if len(head) < header:
        return f"{size} bytes, less than the {header} of its header"
    if head[:4] != _MAGIC[dimensions]:
        return f"it begins with 0x{head[:4].hex()}, not 0x{_MAGIC[dimensions].hex()}, so it is no idx file of this kind"
    shape = [int.from_bytes(head[i : i + 4], "big") for i in range(4, header, 4)]
    expected = header + math.prod(shape)
    text = "x".join(map(str, shape))
    if expected == header:
        return f"its header says {text}, so it is empty"
    return "" if size == expected else f"{size:,} bytes, where its header ({text}) asks for {expected:,}"


def _torchvision_class(dataset: str) -> Any:
    import_torchvision()
    from torchvision import datasets

    return getattr(datasets, _CLASSES[dataset])
