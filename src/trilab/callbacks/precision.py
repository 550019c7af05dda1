"""What mixed precision does in a run: the loss scale, the steps it skipped, the steps really taken."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from trilab.models.module import as_module, is_logging_step
from trilab.precision import CountingGradScaler


class PrecisionTelemetry(Callback):
    """Logs `precision/…` with the training metrics and at each epoch's end.

    - `precision/optimizer_steps`: steps that changed the weights; `trainer.global_step` counts skipped ones too;
    - `precision/skipped_steps`: steps left out because float16 gradients overflowed;
    - `precision/loss_scale`: the gradient scaler's present scale (only with a scaler).
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_logging_step(trainer, batch_idx) and _scaler(trainer) is not None:
            self._log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module)

    @staticmethod
    def _log(trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = telemetry(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=as_module(pl_module).x)


def telemetry(trainer: Trainer) -> dict[str, float]:
    """The metrics of `PrecisionTelemetry` as they stand. Synchronises with the device if there is a scaler."""
    scaler = _scaler(trainer)
    skipped = scaler.skipped_steps if scaler is not None else 0
    metrics = {
        "precision/optimizer_steps": float(trainer.global_step - skipped),
        "precision/skipped_steps": float(skipped),
    }
    if scaler is not None:
        metrics["precision/loss_scale"] = float(scaler.get_scale())
    return metrics


def _scaler(trainer: Trainer) -> CountingGradScaler | None:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if isinstance(scaler, CountingGradScaler) else None
