"""How fast a run trains and what memory it takes; evaluation, checkpoints and the first batch are outside the clock."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from trilab.models.module import as_module
from trilab.timing import clock, peak_memory_mb, reset_peak_memory


class Throughput(Callback):
    """Logs `perf/…` once an epoch and at the end.

    - `perf/<work>_per_s`: train samples, or environment steps, by the second of steady training;
    - `perf/<steps>_per_s`: optimiser steps, where a module has a name for them (`gradient_steps`);
    - `perf/step_ms`: milliseconds of steady training by optimiser step;
    - `perf/epoch_s`: seconds of training in the epoch;
    - `perf/peak_memory_mb`: MiB, of the device's allocator on CUDA, else the process's peak resident set;
    - `perf/first_batch_s`: seconds from `started` to the end of the first batch;
    - `perf/fit_s`: seconds of the whole fit, evaluation and checkpoints included.

    Of agents that train at once as one batch the rates are those of all together; `perf/step_ms` is of one step of all.

    The clock runs from the end of the first batch for which the module says it is `warm`, and stops for validation. It
    waits for the device wherever it is read.
    """

    def __init__(self) -> None:
        #: Set by whoever starts the run to when it really began (time.time()); else the fit's own start.
        self.started = 0.0
        self.rate = 0.0  # work per second, over the whole fit so far
        self._fit_start = 0.0
        self._first_batch_seen = False
        self._busy_s = self._epoch_s = 0.0
        self._work = self._steps = 0
        self._segment: tuple[float, int, int] | None = None  # when it began, and work and steps done by then
        self._epoch_segment: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fit_start = time.time()
        reset_peak_memory(trainer.strategy.root_device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._resume(trainer, pl_module)  # what an epoch draws before its first batch is work too

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._resume(trainer, pl_module)

    def _resume(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._epoch_segment is None:
            self._epoch_segment = _now(trainer)
            if self._first_batch_seen and as_module(pl_module).warm:
                self._open_segment(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._first_batch_seen:
            self._first_batch_seen = True
            _now(trainer)
            started = self.started or self._fit_start
            self._log(trainer, pl_module, {"perf/first_batch_s": time.time() - started})
        if self._segment is None and as_module(pl_module).warm:
            self._open_segment(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close_segment(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close_segment(trainer, pl_module)
        metrics = {"perf/epoch_s": self._epoch_s, "perf/peak_memory_mb": peak_memory_mb(trainer.strategy.root_device)}
        if self._busy_s and self._work:
            self.rate = self._work / self._busy_s
            metrics[f"perf/{as_module(pl_module).work}_per_s"] = self.rate
        if self._busy_s and self._steps:
            metrics["perf/step_ms"] = 1000 * self._busy_s / self._steps
            if as_module(pl_module).steps is not None:
                steps = self._steps * as_module(pl_module).agents
                metrics[f"perf/{as_module(pl_module).steps}_per_s"] = steps / self._busy_s
        self._log(trainer, pl_module, metrics)
        self._epoch_s = 0.0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, {"perf/fit_s": time.time() - self._fit_start})

    def _open_segment(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._segment = (_now(trainer), as_module(pl_module).work_done, trainer.global_step)

    def _close_segment(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._epoch_segment is None:
            return
        now = _now(trainer)
        self._epoch_s += now - self._epoch_segment
        self._epoch_segment = None
        if self._segment is not None:
            start, work, steps = self._segment
            self._busy_s += now - start
            self._work += as_module(pl_module).work_done - work
            self._steps += trainer.global_step - steps
            self._segment = None

    @staticmethod
    def _log(trainer: Trainer, pl_module: LightningModule, metrics: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=as_module(pl_module).x)


def _now(trainer: Trainer) -> float:
    return clock(trainer.strategy.root_device)
