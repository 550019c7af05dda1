"""Where trilab meets Lightning: a Trainer made from the configuration and the parts that trilab supplies."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.precision import Precision as PrecisionPlugin

from trilab.callbacks.identity import Identity
from trilab.callbacks.throughput import Throughput
from trilab.config.job import Job, build
from trilab.errors import UserError
from trilab.models.module import Module
from trilab.runtime import DeviceType


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch, and the workers of data loaders."""
    pl.seed_everything(seed, workers=True, verbose=False)


def callbacks_of(configured: Mapping[str, Any] | None, job: Job, run_id: str, started: float) -> list[pl.Callback]:
    """The configured callbacks (null switches one off), and the one that writes the run's identity into checkpoints."""
    callbacks: list[pl.Callback] = [build(node) for node in (configured or {}).values() if node is not None]
    for callback in callbacks:
        if isinstance(callback, Throughput):
            callback.started = started
    return [*callbacks, Identity(job.config, job.choices, run_id)]


def make_trainer(
    config: Mapping[str, Any],
    model: Module,
    device: DeviceType,
    precision: PrecisionPlugin,
    logger: Any,
    callbacks: list[pl.Callback],
    output_dir: Path,
) -> pl.Trainer:
    """A Trainer from its configuration.

    Lightning refuses gradient clipping for a module that steps its own optimiser; such a module clips for itself, so
    that `trainer.gradient_clip_val` means the same in every field.
    """
    arguments = dict(config)
    if not model.automatic_optimization:
        model.gradient_clip_val = arguments.pop("gradient_clip_val", None)
        model.gradient_clip_algorithm = arguments.pop("gradient_clip_algorithm", None)
    return build(
        arguments,
        accelerator=device,
        plugins=[precision],
        logger=logger,
        callbacks=callbacks,
        default_root_dir=str(output_dir),
        enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
    )


def best_checkpoint(trainer: pl.Trainer) -> str:
    """Path of the best checkpoint; empty where none was written."""
    return str(getattr(trainer.checkpoint_callback, "best_model_path", ""))


@contextlib.contextmanager
def fitting_checkpoint() -> Iterator[None]:
    """Says in one line where a checkpoint's weights are not those of the model as it is configured.

    Raises:
        UserError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        first = str(error).splitlines()[1].strip()
        raise UserError(
            f"The checkpoint does not fit the model as it is configured: {first} Was it trained on other data, or by "
            "a model of other sizes?"
        ) from error


def weights_of(checkpoint: str | Path | None) -> dict[str, Any]:
    """Arguments that make `fit` or `test` load a checkpoint's tensors and nothing executable."""
    return {"ckpt_path": str(checkpoint), "weights_only": True} if checkpoint else {}
