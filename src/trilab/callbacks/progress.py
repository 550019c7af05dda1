"""A progress bar that costs a clock reading a batch: redrawn by time, not by step."""

import sys
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from trilab.models.module import as_module
from trilab.ranges import PositiveFloat
from trilab.sweeps.place import is_quiet


class Progress(Callback):
    """Shows epochs, speed and the latest validation metrics.

    On a terminal a bar; elsewhere (a log file, CI) one line after each validation. Nothing in a sweep of several runs,
    which has a line for each of them.

    Args:
        refresh_s: seconds between two redraws.
    """

    def __init__(self, refresh_s: PositiveFloat = 0.25) -> None:
        self._refresh_s = refresh_s
        self._console = Console(file=sys.stderr, quiet=is_quiet())
        self._bar: RichProgress | None = None
        self._next = 0.0
        self._begin = (0.0, 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin = (time.monotonic(), as_module(pl_module).work_done)
        if self._console.quiet or not self._console.is_terminal or not trainer.is_global_zero:
            return
        self._bar = RichProgress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}  {task.fields[metrics]}"),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=1.0, speed="", metrics="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._refresh_s
        self._bar.update(
            self._task,
            description=_epoch(trainer),
            completed=progress(trainer, pl_module, batch_idx + 1),
            speed=self._speed(pl_module),
            metrics=_metrics(trainer, pl_module),
            refresh=True,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is None and trainer.is_global_zero and _fitting(trainer):
            self._console.print(
                f"{_epoch(trainer)} · {self._speed(pl_module)} · {_metrics(trainer, pl_module)}",
                highlight=False,
                soft_wrap=True,
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _speed(self, pl_module: LightningModule) -> str:
        module = as_module(pl_module)
        start, work = self._begin
        seconds = time.monotonic() - start
        rate = (module.work_done - work) / seconds if seconds > 0 else 0.0
        return f"{rate:,.0f} {module.work.replace('_', ' ')}/s"


def progress(trainer: Trainer, pl_module: LightningModule, batches_done: int) -> float:
    """Share of the fit that is done, in [0, 1]: by the nearest of its limits."""
    shares = [as_module(pl_module).budget_spent]
    batches = trainer.num_training_batches
    if trainer.max_epochs and trainer.max_epochs > 0:
        of_epoch = batches_done / batches if batches not in (0, float("inf")) else 0.0
        shares.append((trainer.current_epoch + of_epoch) / trainer.max_epochs)
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    return min(1.0, max(shares))


def _fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _epoch(trainer: Trainer) -> str:
    last = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
    return f"epoch {trainer.current_epoch + 1}{last}"


def _metrics(trainer: Trainer, pl_module: LightningModule) -> str:
    """The metric that the best checkpoint is chosen by, now and at its best; where there is none, all of `val/`.

    Of agents that train at once as one batch: the mean over them, the lowest and the highest.
    """
    checkpoint = trainer.checkpoint_callback
    monitor = getattr(checkpoint, "monitor", None)
    each = as_module(pl_module).reported.get(str(monitor))
    if isinstance(each, list) and (known := [value for value in each if value is not None]):
        mean = sum(known) / len(known)
        return f"{monitor} {mean:.4g} ({min(known):.4g} to {max(known):.4g} over {len(each)} agents)"
    if monitor in trainer.callback_metrics:
        now = float(trainer.callback_metrics[monitor])
        before = getattr(checkpoint, "best_model_score", None)  # does not know of this validation yet
        better = max if getattr(checkpoint, "mode", "min") == "max" else min
        return f"{monitor} {now:.4g} (best {now if before is None else better(now, float(before)):.4g})"
    shown = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    return "  ".join(f"{name} {float(value):.4g}" for name, value in sorted(shown.items()))
