"""A fit whose epochs start on demand and are timed one by one."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from trilab.timing import clock


class EpochsOnDemand(Callback):
    """Waits for a line before each epoch, and answers with the seconds that it took.

    The clock runs from the epoch's first hook to its last batch, as that of `perf/epoch_s` does.

    Args:
        requests: a line for each epoch that is to be run; at its end the fit ends.
        answer: called with what is to be said.
        settings: what the timings depend on; said first, with a digest of the weights.
    """

    def __init__(self, requests: IO[str], answer: Callable[..., None], settings: Mapping[str, str]) -> None:
        self._requests, self._answer, self._settings = requests, answer, settings
        self._labels: list[Tensor] | None = []  # of the first epoch, from which the order of the images is seen
        self._start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            self._answer(settings=dict(self._settings), weights=digest(pl_module.state_dict().values()))
        if not self._requests.readline():
            raise SystemExit(0)
        self._start = clock(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._labels is not None:
            self._labels.append(batch[1])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = clock(trainer.strategy.root_device) - self._start
        if self._labels is None:
            self._answer(seconds=seconds)
        else:
            self._answer(seconds=seconds, batches=digest(self._labels))
            self._labels = None


def digest(tensors: Iterable[Tensor]) -> str:
    """Sixteen hexadecimal digits that are equal for equal tensors in the same order."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
