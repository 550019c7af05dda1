"""A Lightning callback that lets `vision_throughput.py` measure a fit in windows, and sleeps between them."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from vision_gate import Gate

from trilab.timing import clock, peak_memory_mb, reset_peak_memory


class Windows(Callback):
    """A window is some training steps with all that they cost, from the end of one batch to the end of another.

    What happens between two epochs (validation, checkpoints, the epoch's metrics) is outside the clock; the start of an
    epoch, with the drawing of its order, is inside.

    Args:
        requests: file descriptor that requests for windows are read from.
        replies: file descriptor that answers are written to.
        warmup: steps before the first window.
        steps: of a window.
    """

    def __init__(self, requests: int, replies: int, warmup: int, steps: int) -> None:
        self._gate = Gate(requests, replies)
        self._steps = steps
        self._left = warmup
        self._first_loss: float | None = None
        self._warm = False
        self._busy = 0.0
        self._since: float | None = None  # when the clock was started; None where it stands

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._left -= 1
        if self._first_loss is None:
            self._first_loss = float(outputs["loss"])
        if self._left:
            return
        device = trainer.strategy.root_device
        if self._warm:
            self._pause(trainer)
            self._gate.reply(seconds=self._busy, peak_mb=peak_memory_mb(device))
        else:
            self._gate.reply(loss=self._first_loss)
            reset_peak_memory(device)
            self._warm = True
        if self._gate.wait():
            self._busy, self._left = 0.0, self._steps
            self._since = clock(device)
        else:
            trainer.should_stop = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._warm:
            self._since = time.perf_counter()

    def _pause(self, trainer: Trainer) -> None:
        if self._since is not None:
            self._busy += clock(trainer.strategy.root_device) - self._since
            self._since = None
