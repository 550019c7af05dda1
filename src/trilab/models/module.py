"""What every LightningModule of trilab shares: an optimiser with a schedule, and metrics that cost next to nothing.

`self.log` costs 0.26 ms a call whatever `log_every_n_steps` says, a third of a small network's whole step. So a
training step hands its detached means to `observe`, which adds them up on the device, and only every
`log_every_n_steps` batches (and at each epoch's end) are they read and sent to the logger.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from trilab.errors import UserError
from trilab.models.schedules import Constant, Schedule

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def as_module(module: LightningModule) -> "Module":
    """The module that a callback is called with, by its real type."""
    assert isinstance(module, Module)
    return module


def is_logging_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the training metrics are due after this batch (`trainer.log_every_n_steps`)."""
    return (batch_idx + 1) % int(trainer.log_every_n_steps) == 0  # type: ignore[attr-defined]


class Module(LightningModule):
    """Base of the task modules.

    Args:
        optimizer: makes the optimiser from the parameters (`_partial_: true` in the configuration).
        schedule: factor of the learning rate by the share of the budget spent.
    """

    #: What the x axis of every metric counts; a tag of the run.
    x_axis = "optimizer_steps"
    #: What speed is counted in: the metric `perf/<work>_per_s`.
    work = "train_samples"

    def __init__(self, optimizer: OptimizerFactory, schedule: Schedule) -> None:
        super().__init__()
        self._optimizer_factory = optimizer
        self._schedule = schedule
        self._window: dict[str, Tensor] = {}
        self._window_weight = 0
        #: Units of `work` done so far in this process.
        self.work_done = 0

    @property
    def warm(self) -> bool:
        """Whether work now runs as it will for the rest of the fit, so that its speed is worth measuring."""
        return True

    @property
    def budget_spent(self) -> float:
        """Share of a budget of the module's own that is spent, in [0, 1]; 0 where epochs and steps are the only one."""
        return 0.0

    @property
    def x(self) -> int:
        """Where a metric reported now stands on the x axis."""
        return self.global_step

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The configured optimiser of some parameters.

        Raises:
            UserError: its arguments do not go together.
        """
        try:
            return self._optimizer_factory(parameters)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"optimizer: {error}") from error

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if isinstance(self._schedule, Constant):
            return optimizer
        scheduler = LambdaLR(optimizer, lambda step: self._schedule(self._progress(step)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _progress(self, step: int) -> float:
        # Not asked before the first step: it would set the loaders up before Lightning has read their saved states.
        return min(1.0, step / max(1, int(self.trainer.estimated_stepping_batches))) if step else 0.0

    def observe(self, weight: int, **means: Tensor) -> None:
        """Adds scalar means over `weight` samples to the current window of training metrics.

        A window always holds the same names. The tensors may live on any device; nothing is synchronised here.
        """
        for name, mean in means.items():
            total = mean.detach().float() * weight
            self._window[name] = self._window[name] + total if name in self._window else total
        self._window_weight += weight
        self.work_done += weight

    def report(self, metrics: Mapping[str, float | Tensor]) -> None:
        """Reports finished metrics (`val/…`, `test/…`): to checkpoints and early stopping, and to the logger at `x`."""
        values = {name: float(value) for name, value in metrics.items()}
        self.log_dict({name: torch.tensor(value) for name, value in values.items()}, logger=False, batch_size=1)
        self._send(values)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if is_logging_step(self.trainer, batch_idx):
            self._send(self._close_window())

    def on_train_epoch_end(self) -> None:
        if self._window_weight:
            self.report(self._close_window())

    def _close_window(self) -> dict[str, float]:
        if not self._window_weight:
            return {}
        totals = torch.stack(tuple(self._window.values())).tolist()  # one synchronisation for all
        means = {f"train/{name}": total / self._window_weight for name, total in zip(self._window, totals, strict=True)}
        self._window, self._window_weight = {}, 0
        return means

    def _send(self, values: Mapping[str, float]) -> None:
        if values and not self.trainer.sanity_checking:
            for logger in self.trainer.loggers:
                logger.log_metrics(dict(values), step=self.x)
