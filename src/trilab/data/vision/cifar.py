"""CIFAR-10 and CIFAR-100 through torchvision: downloaded where there is internet, else read from the data folder.

Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images, https://www.cs.toronto.edu/~kriz/cifar.html:
50,000 and 10,000 colour images of 32x32. The files are pickles, which may run code when they are read, so each is
compared with its published MD5 first.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from trilab.data.vision.augment import Augmentation
from trilab.data.vision.download import attempt
from trilab.data.vision.images import ImageData, Images
from trilab.errors import UserError
from trilab.ranges import NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt
from trilab.runtime import import_torchvision

_CLASSES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}


class Cifar(ImageData):
    """CIFAR-10 (10 classes) or CIFAR-100 (100 classes, the fine ones).

    Args:
        dataset: which.
        root: folder of all data sets; the files lie in `<root>/cifar-10-batches-py` or `<root>/cifar-100-python`, as
            torchvision has them.
        download: fetch the archive where files are missing.
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
        dataset: Literal["cifar10", "cifar100"],
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
        self._folder = self._root / self._class.base_folder
        meta = self._class.meta
        self._md5 = dict([*self._class.train_list, *self._class.test_list, (meta["filename"], meta["md5"])])

    def prepare_data(self) -> None:
        if not (missing := self._missing()):
            return
        why = "data.download is false"
        if self.download:
            new = not self._folder.exists()
            why = attempt(lambda: self._class(str(self._root), download=True)) or "they are not in the download"
            if not (missing := self._missing()):
                return
            if new:
                with suppress(OSError):  # not there, or not empty
                    self._folder.rmdir()
        raise UserError(
            f"{self.dataset}: {', '.join(missing)} not found in {self._folder}, and {why}. Fetch {self._class.url} "
            f"and unpack it in {self._root}, or set TRILAB_DATA_DIR to the folder that holds {self._folder.name}."
        )

    def load(self) -> tuple[Images, Images, int]:
        from torchvision.datasets.utils import check_integrity

        for name, md5 in self._md5.items():
            if not check_integrity(str(self._folder / name), md5):
                raise UserError(
                    f"{self._folder / name} is corrupt: its MD5 is not the published {md5}. Delete it, fetch "
                    f"{self._class.url} and unpack it in {self._root}."
                )
        train, test = (self._class(str(self._root), train=part) for part in (True, False))
        return self._read(train), self._read(test), len(train.classes)

    def _read(self, data: Any) -> Images:
        pixels = torch.from_numpy(np.ascontiguousarray(data.data)).permute(0, 3, 1, 2)  # from (n, height, width, 3)
        return Images.of(pixels, torch.tensor(data.targets, dtype=torch.int64))

    def _missing(self) -> list[str]:
        return [name for name in self._md5 if not (self._folder / name).is_file()]


def _torchvision_class(dataset: str) -> Any:
    import_torchvision()
    from torchvision import datasets

    return getattr(datasets, _CLASSES[dataset])
