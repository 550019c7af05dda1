"""What a training keeps in memory: worked out before the first step, and measured in it."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from trilab.callbacks.memory_forecast import Held, forecast_activations, forecast_state
from trilab.models.module import as_module
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.numerics.saved_tensors import Part, SavedTensors
from trilab.sweeps.place import is_quiet

#: A part's name in the table, to that in its metrics.
PARTS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer state": "optimizer_state",
    "activations": "activations",
    "weight copies": "weight_copies",
}
_KINDS = {"activation": "activations", "weight copy": "weight copies"}
#: Steps that a gradient scaler may leave out, and with them the optimiser its state, before the account is closed.
_PATIENCE = 100
_MIB = 2**20


class MemoryAccount(Callback):
    """Logs `memory/…` in MiB after the first optimiser step, and shows it with its forecast as a table.

    - `memory/parameters_mb`: of the whole module, those of frozen and target networks among them;
    - `memory/gradients_mb`: as the optimiser met them; of tables that are trained by row, those of the rows read;
    - `memory/optimizer_state_mb`: moments and step counts;
    - `memory/activations_mb`: the most that autograd kept at once for a backward pass, inputs, integers and the loss's
      tensors among it. Nothing where an agent's gradient is written out;
    - `memory/weight_copies_mb`: of that, weights that autocast had cast.

    Each is also there by dtype (`memory/activations_bfloat16_mb`) and as it was forecast
    (`memory/activations_forecast_mb`). The forecast of parameters and gradients is their sizes, that of the optimiser's
    state comes from a step of a shadow without memory, and that of activations from the network on 4 and on 8 rows of
    the first batch, in a straight line from there; a step that the module takes by itself has none of those. Neither
    holds a layer's workspace, the data, or what an allocator keeps; see `perf/peak_memory_mb`.

    Where the training ends before its first step is over, for want of memory say, the forecast alone is shown.
    It takes no random numbers, and after the first step it is out of the way.

    Args:
        show: print the table on the standard error stream; not in a sweep of several runs.
    """

    def __init__(self, show: bool = True) -> None:
        self._show = show
        self.forecast: dict[str, Held | None] = {}
        self.measured: dict[str, Held] = {}
        self._kept: Mapping[Part, int] = {}  # of the batch in which most was kept
        self._counter: SavedTensors | None = None
        self._batches = 0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first_step = trainer.global_step
        by_row = {id(part.weight) for part in pl_module.modules() if isinstance(part, FusedEmbedding) and part.by_row}
        trained = [p for p in pl_module.parameters() if p.requires_grad and id(p) not in by_row]
        states = [forecast_state(optimizer) for optimizer in trainer.optimizers]
        self.forecast = {
            "parameters": held(pl_module.parameters()),
            "gradients": held(trained),
            "optimizer state": None if None in states else _sum(states),
        }

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        compiled = _is_compiled(pl_module)
        if not self._batches and not compiled and pl_module.automatic_optimization:
            kept = forecast_activations(pl_module, batch, trainer.precision_plugin)
            for name, own in _by_kind(kept).items() if kept is not None else ():
                self.forecast[name] = own
        self._batches += 1
        if not compiled:  # a compiled graph would be compiled anew, with the hooks and without
            self._counter = SavedTensors(pl_module.parameters()).__enter__()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.measured["gradients"] = _gradients(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stop_counting()
        if trainer.global_step == self._first_step:
            return
        state = _sum([_state(optimizer) for optimizer in trainer.optimizers])
        if self.forecast["optimizer state"] and not state and self._batches < _PATIENCE:
            return
        if not pl_module.automatic_optimization:
            self.measured["gradients"] = _sum([_gradients(optimizer) for optimizer in trainer.optimizers])
        self.measured |= {"parameters": held(pl_module.parameters()), "optimizer state": state}
        if not _is_compiled(pl_module):
            self.measured |= _by_kind(self._kept)
        for logger in trainer.loggers:
            logger.log_metrics(self.metrics(), step=as_module(pl_module).x)
        self._print(trainer)
        # Lightning calls every hook of every callback in every step: 10 us that a later step would pay for nothing.
        trainer.callbacks = [own for own in trainer.callbacks if own is not self]  # type: ignore[attr-defined]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_counting()
        if self.forecast:
            self._print(trainer)

    def metrics(self) -> dict[str, float]:
        """`memory/…`, of what was measured and of what was forecast."""
        found: dict[str, float] = {}
        for part, name in PARTS.items():
            forecast, measured = self.forecast.get(part), self.measured.get(part)
            if forecast is not None:
                found[f"memory/{name}_forecast_mb"] = sum(forecast.values()) / _MIB
            if measured is not None:
                found[f"memory/{name}_mb"] = sum(measured.values()) / _MIB
                found |= {f"memory/{name}_{_name(dtype)}_mb": size / _MIB for dtype, size in measured.items()}
        return found

    def _stop_counting(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            if sum(self._counter.peak.values()) >= sum(self._kept.values()):
                self._kept = self._counter.peak
            self._counter = None

    def _print(self, trainer: Trainer) -> None:
        if self._show and trainer.is_global_zero and not is_quiet():
            # As text through the stream, which a progress bar has put itself before.
            console = Console(stderr=True)
            with console.capture() as text:
                console.print(table(self.forecast, self.measured))
            sys.stderr.write("\n".join(line.rstrip() for line in text.get().splitlines()) + "\n")


def table(forecast: Mapping[str, Held | None], measured: Mapping[str, Held]) -> Table:
    """A row for each part and dtype, and their sum."""
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("memory, MiB", "dtype"):
        shown.add_column(column)
    for column in ("forecast", "in the first step"):
        shown.add_column(column, justify="right")
    sums = [0.0, 0.0]
    for part in PARTS:
        columns = (forecast.get(part), measured.get(part))
        dtypes = sorted({dtype for own in columns if own for dtype in own}, key=str)
        if part == "activations" and not dtypes and columns[1] is not None:  # autograd has kept nothing
            shown.add_row(part, "", "", _mib(0))
        for row, dtype in enumerate(dtypes):
            sizes = [own.get(dtype, 0) if own is not None else None for own in columns]
            sums = [total + (size or 0) for total, size in zip(sums, sizes, strict=True)]
            shown.add_row("" if row else part, _name(dtype), *(_mib(size) for size in sizes))
    whole = all(forecast.get(part) is not None for part in ("optimizer state", "activations"))
    shown.add_row("in all", "", _mib(sums[0]) if whole else "", _mib(sums[1]) if measured else "")
    return shown


def held(tensors: Iterable[Tensor]) -> Held:
    """Bytes by dtype, each memory once however many tensors share it."""
    found: Held = {}
    for tensor in {id(tensor): tensor for tensor in tensors}.values():
        found[tensor.dtype] = found.get(tensor.dtype, 0) + tensor.numel() * tensor.element_size()
    return found


def _gradients(optimizer: torch.optim.Optimizer) -> Held:
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return held(parameter.grad for parameter in parameters if parameter.grad is not None)


def _state(optimizer: torch.optim.Optimizer) -> Held:
    return held(value for own in optimizer.state.values() for value in own.values() if isinstance(value, Tensor))


def _sum(parts: Iterable[Held | None]) -> Held:
    found: Held = {}
    for part in parts:
        for dtype, size in (part or {}).items():
            found[dtype] = found.get(dtype, 0) + size
    return found


def _by_kind(kept: Mapping[Part, int]) -> dict[str, Held]:
    found: dict[str, Held] = {name: {} for name in _KINDS.values()}
    for part, size in kept.items():
        found[_KINDS[part.kind]][part.dtype] = size
    return found


def _is_compiled(module: LightningModule) -> bool:
    return getattr(module, "compile_mode", "none") != "none" or any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _mib(size: float | None) -> str:
    return "" if size is None else f"{size / _MIB:,.2f}"
