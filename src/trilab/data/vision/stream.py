"""Images too many for memory: decoded by processes beside the training, in an order given for each pass.

The workers give bytes; what is done with a batch is done where those of an image set in memory are treated, so that
both give the same numbers.
"""

import os
import signal
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trilab.data.vision.decode import Decoding
from trilab.errors import UserError


class StreamedPixels:
    """Images in files.

    Args:
        root: of the names.
        names: of the files below it.
        decoding: what becomes of each.
        shape: (height, width, channels) that all must have, which is that of the file `first`.
        first: its name.
        workers: processes that decode; 0 to decode in the program's own.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        decoding: Decoding,
        shape: tuple[int, int, int],
        first: str,
        workers: int,
    ) -> None:
        # An array of bytes: a list of as many strings would be copied into every worker, page by page, as it is read.
        self._files = _Files(root, np.array([os.fsencode(name) for name in names]), decoding, shape, first)
        self._workers = workers
        self._order = _Order()
        self._loaders: list[DataLoader[Any]] = []  # one at most, kept between passes with its workers
        # Whoever forgets to close it: left to the garbage collector, torch takes 5 seconds to give its workers up.
        weakref.finalize(self, _end, self._loaders)

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self._files.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self._files)

    def take(self, rows: Tensor) -> "StreamedPixels":
        files = self._files
        names = [os.fsdecode(name) for name in files.names[rows.numpy()]]
        return StreamedPixels(files.root, names, files.decoding, files.shape, files.first, self._workers)

    def batches(self, order: Tensor, first: int, batch_size: int) -> Iterator[Tensor]:
        self._order.batches = [rows.tolist() for rows in order[first * batch_size :].split(batch_size)]
        if not self._loaders:
            loader: DataLoader[Any] = DataLoader(
                self._files,
                batch_sampler=self._order,
                num_workers=self._workers,
                collate_fn=_as_it_is,
                persistent_workers=self._workers > 0,
                worker_init_fn=_ignore_signals,
                generator=torch.Generator(),  # else each pass would take a number from the program's random stream
            )
            self._loaders.append(loader)
        for batch in self._loaders[0]:
            if isinstance(batch, str):
                raise UserError(batch)
            yield batch.permute(0, 3, 1, 2)

    def close(self) -> None:
        _end(self._loaders)


def _end(loaders: list[DataLoader[Any]]) -> None:
    while loaders:
        iterator: Any = getattr(loaders.pop(), "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()  # at once, whoever still holds the iterator


class _Order:
    """The batches of the next pass: torch's workers outlive a pass, and ask for them anew at each."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Files(Dataset[Any]):
    def __init__(
        self, root: Path, names: np.ndarray, decoding: Decoding, shape: tuple[int, int, int], first: str
    ) -> None:
        self.root, self.names, self.decoding, self.shape, self.first = root, names, decoding, shape, first

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, rows: list[int]) -> Tensor | str:
        """uint8 (batch, height, width, channels); or what is wrong, for torch puts a worker's traceback into errors."""
        out = np.empty((len(rows), *self.shape), np.uint8)
        try:
            for place, row in enumerate(rows):
                out[place] = self.decoding.of_shape(self.root, os.fsdecode(self.names[row]), self.shape, self.first)
        except UserError as error:
            return str(error)
        return torch.from_numpy(out)


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Ctrl-C reaches a terminal's every process; the program ends its workers itself, and without their tracebacks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
