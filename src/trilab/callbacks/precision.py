"""What mixed precision does in a run: dtypes, loss scale, skipped steps, steps really taken, broken gradients."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.precision import Precision as PrecisionPlugin
from torch import Tensor, nn

from trilab.models.module import as_module, is_logging_step
from trilab.precision import CountingGradScaler


class PrecisionTelemetry(Callback):
    """Logs `precision/…` with the training metrics and at each epoch's end.

    - `precision/optimizer_steps`: steps that changed the weights; `trainer.global_step` counts skipped ones too;
    - `precision/skipped_steps`: steps left out because float16 gradients overflowed;
    - `precision/non_finite_gradients`: steps whose gradients held an infinity or a NaN, of every step. With a scaler
      they are those that it skipped;
    - `precision/loss_scale`: the gradient scaler's present scale (only with a scaler).

    And once, when training starts, each by the dtype's name:

    - `precision/autocast_<dtype>`: 1 for the dtype that autocast computes matrix products in, float32 where it is off;
    - `precision/weights_<dtype>`: share of the parameters' numbers that are held in it.
    """

    def __init__(self) -> None:
        self._check: GradientCheck | None = None
        self._found_before = 0  # of the training that is gone on with
        self._logged_at = -1  # x of the last metrics: an epoch may end with a batch after which they are due anyway

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged_at = -1
        if _scaler(trainer) is None:
            self._check = GradientCheck(trainer.strategy.root_device)
            if not pl_module.automatic_optimization:  # Lightning calls no hook before a step that is not its own
                for optimizer in trainer.optimizers:
                    self._check.watch(optimizer)
        autocast, weights = dtypes(pl_module, trainer.precision_plugin, trainer.strategy.root_device.type)
        metrics = {f"precision/autocast_{autocast}": 1.0}
        metrics |= {f"precision/weights_{name}": share for name, share in weights.items()}
        self._send(trainer, pl_module, metrics)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self._check is not None:
            self._check.look(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_logging_step(trainer, batch_idx):
            self._log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._check is not None:
            self._check.stop()

    def state_dict(self) -> dict[str, Any]:
        return {"non_finite_gradients": self._found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._found_before = int(state_dict["non_finite_gradients"])

    @property
    def _found(self) -> int:
        return self._found_before + (self._check.found if self._check is not None else 0)

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if as_module(pl_module).x == self._logged_at:
            return
        self._logged_at = as_module(pl_module).x
        metrics = telemetry(trainer)
        if self._check is not None:
            metrics["precision/non_finite_gradients"] = float(self._found)
        self._send(trainer, pl_module, metrics)

    @staticmethod
    def _send(trainer: Trainer, pl_module: LightningModule, metrics: Mapping[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(dict(metrics), step=as_module(pl_module).x)


def telemetry(trainer: Trainer) -> dict[str, float]:
    """What step counter and gradient scaler tell of `PrecisionTelemetry`'s metrics. Synchronises if there is one."""
    scaler = _scaler(trainer)
    skipped = scaler.skipped_steps if scaler is not None else 0
    metrics = {
        "precision/optimizer_steps": float(trainer.global_step - skipped),
        "precision/skipped_steps": float(skipped),
    }
    if scaler is not None:
        metrics["precision/non_finite_gradients"] = float(skipped)
        metrics["precision/loss_scale"] = float(scaler.get_scale())
    return metrics


def dtypes(module: nn.Module, plugin: PrecisionPlugin, device: str) -> tuple[str, dict[str, float]]:
    """The dtype that autocast really computes in, and the share of the parameters' numbers by their dtype.

    Args:
        module: whose parameters are looked at.
        plugin: whose context a step runs in.
        device: type of the device.
    """
    with plugin.forward_context():
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    numbers: dict[str, int] = {}
    for parameter in module.parameters():
        numbers[_name(parameter.dtype)] = numbers.get(_name(parameter.dtype), 0) + parameter.numel()
    total = sum(numbers.values()) or 1
    return _name(autocast), {name: count / total for name, count in numbers.items()}


class GradientCheck:
    """Counts the steps of optimisers whose gradients hold an infinity or a NaN, without waiting for the device.

    The gradient scaler's own kernel, with a scale of 1, looks at all gradients in one pass. A fused Adam step of an MLP
    of 101,770 parameters takes 15 us more with it, one of 10,814 (CartPole's network) 5 to 9 us (one thread of an AMD
    EPYC, `pytest -m slow -s -k costs tests/callbacks/test_precision_telemetry.py`).

    Args:
        device: of the parameters.
    """

    def __init__(self, device: torch.device) -> None:
        self._count = torch.zeros(1, device=device)
        self._flag = torch.zeros(1, device=device)
        self._one = torch.ones(1, device=device)
        self._handles: list[Any] = []

    @property
    def found(self) -> int:
        """Steps so far. Synchronises with the device."""
        return int(self._count)

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Looks at its gradients before every step that it takes from now on; not of one that is given a closure."""
        self._handles.append(optimizer.register_step_pre_hook(lambda own, args, kwargs: self.look(own)))

    def stop(self) -> None:
        """Takes itself out of the optimisers."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def look(self, optimizer: torch.optim.Optimizer) -> None:
        """Counts one step where any of the gradients is not finite."""
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        for alike in _alike(grads):
            torch._amp_foreach_non_finite_check_and_unscale_(alike, self._flag, self._one)
        self._count.add_(self._flag)
        self._flag.zero_()


def _alike(grads: list[Tensor]) -> list[list[Tensor]]:
    """What one call of the kernel can take: dense gradients, or the values of sparse ones, of one dtype."""
    if not grads:
        return []
    kind = grads[0].dtype
    if all(grad.dtype is kind and not grad.is_sparse for grad in grads):
        return [grads]
    found: dict[torch.dtype, list[Tensor]] = {}
    for grad in grads:
        found.setdefault(grad.dtype, []).append(grad._values() if grad.is_sparse else grad)
    return list(found.values())


def _scaler(trainer: Trainer) -> CountingGradScaler | None:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if isinstance(scaler, CountingGradScaler) else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
