"""Anyone's own images, by class folder: in memory, decoded once and cached; or streamed from their files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from trilab.data.vision.augment import Augmentation
from trilab.data.vision.class_folders import ClassFolders, find_folder, find_images, same_classes
from trilab.data.vision.decode import Decoding, processors
from trilab.data.vision.image_cache import decoded
from trilab.data.vision.images import ImageData, Images
from trilab.data.vision.stream import StreamedPixels
from trilab.errors import ConfigError, UserError, say
from trilab.ranges import FractionBelowOne, NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt

_MB = 2**20


class ImageFolder(ImageData):
    """Images in `<root>/<train>/<class>/` and, if there, `<root>/<test>/<class>/`.

    Args:
        root: folder of the set.
        train: the folder in it with the class folders to train on; `.` where the root itself has them.
        test: the folder in it with those of the test; where it is not there, images are split off the others.
        test_fraction: share of each class that is split off then.
        split_seed: of that split, so that runs with several seeds share one.
        mode: images of three channels or of one, whatever the files have.
        image_size: the shorter side is resized to so many pixels and the square in the middle kept; null keeps images
            as they are, which must then be of one size.
        storage: `memory`: all images decoded once, then held; `stream`: decoded again in each epoch, by workers;
            `auto`: memory where that takes at most `memory_limit_mb`.
        memory_limit_mb: MiB.
        workers: processes that decode a stream, 0 for the program's own; where images are held, threads that decode
            once, 0 for as many as there are processors.
        cache: folder of decoded images; null to decode at the start of each run.
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
        root: str,
        train: str,
        test: str | None,
        test_fraction: FractionBelowOne,
        split_seed: NonNegativeInt,
        mode: Literal["rgb", "grey"],
        image_size: PositiveInt | None,
        storage: Literal["auto", "memory", "stream"],
        memory_limit_mb: PositiveInt,
        workers: NonNegativeInt,
        cache: str | None,
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
        self.root = Path(root).expanduser().absolute()
        self.train = train
        self.test = test
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.decoding = Decoding(mode, image_size)
        self.storage = storage
        self.memory_limit_mb = memory_limit_mb
        self.workers = workers
        self._cache = Path(cache).expanduser().absolute() if cache is not None else None
        #: Names of the classes, by label.
        self.classes: tuple[str, ...] = ()

    def load(self) -> tuple[Images, Images, int]:
        train, test = self._find()
        self.classes = train.classes
        streamed = self._streamed(train, test)
        images = self._read(train, streamed)
        if test is not None:
            return images, self._read(test, streamed), len(self.classes)
        rows, held = split(train.labels, self.test_fraction, self.split_seed, train.classes, self.root)
        return images.take(torch.from_numpy(rows)), images.take(torch.from_numpy(held)), len(self.classes)

    def _find(self) -> tuple[ClassFolders, ClassFolders | None]:
        folder = find_folder(self.root, self.train)
        other = self.root / self.test if self.test is not None else None
        if other is not None and other == folder:
            raise ConfigError(f"data.test={self.test}: the same folder as data.train. Name another, or null.")
        train = find_images(folder, exclude=other)
        if other is not None and other.is_dir():
            test = find_images(other)
            same_classes(train, test)
            return train, test
        if not self.test_fraction:
            raise ConfigError(
                f"data.test_fraction=0: no images to test on, for there is no folder {other or 'data.test'}. "
                "Set one of the two."
            )
        return train, None

    def _streamed(self, train: ClassFolders, test: ClassFolders | None) -> bool:
        if self.storage != "auto":
            return self.storage == "stream"
        shape = self.decoding(train.root / train.names[0]).shape
        size = (len(train) + (len(test) if test is not None else 0)) * np.prod(shape, dtype=np.int64) / _MB
        if size > self.memory_limit_mb:
            say(
                f"{self.root}: decoded it would take {size:,.0f} MiB, more than data.memory_limit_mb="
                f"{self.memory_limit_mb}: read from its files in each epoch."
            )
        return bool(size > self.memory_limit_mb)

    def _read(self, files: ClassFolders, streamed: bool) -> Images:
        labels = torch.from_numpy(files.labels)
        if streamed:
            height, width, channels = self.decoding(files.root / files.names[0]).shape
            shape = (height, width, channels)
            return Images(
                StreamedPixels(files.root, files.names, self.decoding, shape, files.names[0], self.workers), labels
            )
        pixels = decoded(files, self.decoding, self.workers or processors(), self._cache)
        return Images.of(torch.from_numpy(pixels).permute(0, 3, 1, 2), labels)


def split(
    labels: NDArray[np.int64], fraction: float, seed: int, classes: Sequence[str], root: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows to test on: of each class the share nearest to `fraction`, but at least one image each.

    Args:
        labels: (n,) of all rows.
        fraction: to test on.
        seed: of which.
        classes: their names, for errors.
        root: for errors.
    """
    rng = np.random.default_rng(seed)
    rows: list[NDArray[np.int64]] = []
    held: list[NDArray[np.int64]] = []
    for label, name in enumerate(classes):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        if len(of_class) < 2:
            raise UserError(f"{root}: class '{name}' has a single image, which cannot be both trained and tested on.")
        count = min(max(1, round(fraction * len(of_class))), len(of_class) - 1)
        held.append(of_class[:count])
        rows.append(of_class[count:])
    return np.sort(np.concatenate(rows)), np.sort(np.concatenate(held))
