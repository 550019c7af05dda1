"""What every LightningModule of trilab shares: an optimiser with a schedule, and metrics that cost next to nothing.

`self.log` costs 0.26 ms a call whatever `log_every_n_steps` says, a third of a small network's whole step. So a
training step hands its means to `observe`, which keeps them on the device, and only every `log_every_n_steps` batches
(and at each epoch's end) are they added up, read and sent to the logger.

A module may hold several agents that train at once as one batch (`agents`). A metric of theirs is then a list with one
value for each, and loggers get it so; what checkpoints and early stopping monitor is the mean.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from trilab.collectives import summed
from trilab.errors import UserError
from trilab.models.schedules import Constant, Schedule

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
#: A metric's value: a number, or one for each agent of a batch; None where there is none now.
Value = float | list[float | None] | None

#: Observations of a metric that wait on the device before they are added up, at the cost of adding one.
_WAITING = 256
#: Attributes that are set in every step, the first of them 44 times by Lightning. torch's own way of setting a module's
#: attribute looks for parameters, buffers and modules of that name first, 1.2 us each time.
_OFTEN_SET = frozenset({"_current_fx_name", "_window_weight", "share", "work_done"})


def as_module(module: LightningModule) -> "Module":
    """The module that a callback is called with, by its real type."""
    assert isinstance(module, Module)
    return module


def is_logging_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the training metrics are due after this batch (`trainer.log_every_n_steps`)."""
    return (batch_idx + 1) % int(trainer.log_every_n_steps) == 0  # type: ignore[attr-defined]


def plain(value: Any) -> Value:
    """A number, array, tensor or sequence as a `Value`."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None:
        return None
    return list(value) if isinstance(value, list | tuple) else float(value)


def overall(value: Value) -> float | None:
    """The mean over the agents that have a value."""
    known = [item for item in (value if isinstance(value, list) else [value]) if item is not None]
    return sum(known) / len(known) if known else None


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
    #: The name of an optimiser step where its speed is a metric of its own, `perf/<steps>_per_s`.
    steps: str | None = None
    #: How many agents train at once as one batch.
    agents: int = 1

    def __init__(self, optimizer: OptimizerFactory, schedule: Schedule) -> None:
        super().__init__()
        self._optimizer_factory = optimizer
        self._schedule = schedule
        self._waiting: dict[str, tuple[list[Tensor], list[int]]] = {}  # observations and their weights
        self._window: dict[str, Tensor] = {}  # sums of those that no longer wait
        self._window_weight = 0
        #: Units of `work` done so far since this process began, by all agents and all ranks together.
        self.work_done = 0
        #: Processes that share the run, and this one's part of the present batch, over the average part.
        self.ranks, self.share = 1, 1.0
        #: The latest value of every metric that was reported.
        self.reported: dict[str, Value] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "training_step" in cls.__dict__:
            # Lightning reads it in every step, which takes 10 us less where it is stored.
            cls.training_step.__signature__ = inspect.signature(cls.training_step)  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OFTEN_SET:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

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

    def observe(self, weight: int, counts: Mapping[str, Tensor] | None = None, **means: Tensor) -> None:
        """Adds means over `weight` samples to the current window of training metrics.

        The tensors may live on any device, and must not be overwritten later; nothing is synchronised here.

        Args:
            weight: units of `work` of all agents together.
            counts: sums over the samples in place of means, where those are cheaper to take: numbers of hits.
            means: (), or (agents,) where each agent has its own.
        """
        if not self.share:  # a row that stands in for none
            weight = 0
        for name, mean in means.items():
            self._wait(name, mean, weight)
        for name, count in (counts or {}).items():
            self._wait(name, count, 1 if self.share else 0)
        self._window_weight += weight
        self.work_done += weight if self.ranks == 1 else round(weight * self.ranks / (self.share or 1.0))

    def _wait(self, name: str, value: Tensor, weight: int) -> None:
        values, weights = self._waiting.setdefault(name, ([], []))
        values.append(value.detach())
        weights.append(weight)
        if len(values) >= _WAITING:
            self._add_up()

    def _add_up(self) -> None:
        for name, (values, weights) in self._waiting.items():
            stacked = torch.stack(values).float()  # (n,) or (n, agents)
            shares = torch.tensor(weights, dtype=stacked.dtype).to(stacked.device, non_blocking=True)
            total = (stacked.mT * shares).sum(-1) if stacked.dim() > 1 else (stacked * shares).sum()
            self._window[name] = self._window[name] + total if name in self._window else total
        self._waiting.clear()

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Reports finished metrics (`val/…`, `test/…`): to checkpoints and early stopping, and to the logger at `x`.

        Args:
            metrics: numbers, arrays or tensors; with an element for each agent where there are several.
        """
        values = {name: plain(value) for name, value in metrics.items()}
        self.reported.update(values)
        means = {name: mean for name, value in values.items() if (mean := overall(value)) is not None}
        self.log_dict({name: torch.tensor(mean) for name, mean in means.items()}, logger=False, batch_size=1)
        self._send(values)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if is_logging_step(self.trainer, batch_idx):
            self._send(self._close_window())

    def on_train_epoch_end(self) -> None:
        if self._has_observed:
            self.report(self._close_window())

    @property
    def _has_observed(self) -> bool:
        """The same on every rank, though one may have had nothing but a row that stands in for none."""
        return bool(self._window_weight or (self.ranks > 1 and (self._waiting or self._window)))

    def _close_window(self) -> dict[str, Value]:
        if not self._has_observed:
            return {}
        self._add_up()
        totals = torch.cat([total.reshape(-1) for total in self._window.values()])  # (1,) or (agents,) each
        weight = float(self._window_weight)
        if self.ranks > 1:
            of_all = summed(torch.cat([totals, totals.new_tensor([weight])]).double())
            totals, weight = of_all[:-1], float(of_all[-1])
        flat = iter(totals.tolist())  # one synchronisation for all
        means: dict[str, Value] = {}
        for name, total in self._window.items():
            values: list[float | None] = [next(flat) / weight for _ in range(total.numel())]
            means[f"train/{name}"] = values if total.dim() else values[0]
        self._window, self._window_weight = {}, 0
        return means

    def _send(self, values: Mapping[str, Value]) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        if known and not self.trainer.sanity_checking:
            for logger in self.trainer.loggers:
                logger.log_metrics(dict(known), step=self.x)  # type: ignore[arg-type]  # a list where agents differ

    # One agent of several. A module that can hold several overrides both, and has a static or class method
    # `joined(members)`, which makes one module of several that differ in their seeds alone.

    def agent_state(self, k: int) -> dict[str, Tensor]:
        """The state_dict of agent k as it would be alone."""
        return dict(self.state_dict())

    def load_agent_state(self, k: int, state: dict[str, Tensor]) -> None:
        """Gives agent k the parameters of one that was saved alone."""
        self.load_state_dict(state)
