"""Where trilab meets Lightning: a Trainer made from the configuration and the parts that trilab supplies."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.precision import Precision as PrecisionPlugin
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import Strategy

from trilab.callbacks.agents import AgentsBest
from trilab.callbacks.identity import Identity
from trilab.callbacks.throughput import Throughput
from trilab.config.job import Job, build
from trilab.distributed.peers import Peers
from trilab.distributed.strategy import Ranks
from trilab.errors import UserError
from trilab.models.module import Module
from trilab.runtime import DeviceType

#: Hooks that Lightning calls in every training step.
_EACH_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
_NOTHING = contextlib.nullcontext()


class Unprofiled(PassThroughProfiler):
    """No profiler, without a generator for each of the 54 contexts that Lightning opens in every step.

    One takes 0.13 us so, and 1.7 us as Lightning has it.
    """

    def profile(self, action_name: str) -> Any:
        return _NOTHING


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch, and the workers of data loaders."""
    pl.seed_everything(seed, workers=True, verbose=False)


def assemble(jobs: Sequence[Job]) -> tuple[pl.LightningDataModule, Module]:
    """The data and a model for it; of several jobs, which differ in their seed alone, one of each that holds all."""
    pairs = [_assemble(job.config) for job in jobs]
    if len(pairs) == 1:
        return pairs[0]
    data, models = zip(*pairs, strict=True)
    return type(data[0]).joined(data), type(models[0]).joined(models)


def _assemble(config: Mapping[str, Any]) -> tuple[Any, Any]:
    seed_everything(config["seed"])
    data = build(config["data"])
    data.prepare_data()
    data.setup("fit")
    optimizer, schedule = build(config["optimizer"]), build(config["scheduler"])
    return data, build(config["model"], spec=data.spec, optimizer=optimizer, schedule=schedule)


def callbacks_of(
    configured: Mapping[str, Any] | None,
    started: float,
    whole: Mapping[str, Any],
    members: Sequence[Mapping[str, Any]],
    folders: Sequence[Path],
) -> list[pl.Callback]:
    """The configured callbacks (null switches one off) and those of the program.

    Args:
        configured: by name.
        started: when the run began, in seconds (time.time()).
        whole: what the run's checkpoints say of themselves; see `trilab.callbacks.identity`.
        members: what those of each agent say, where several train at once.
        folders: of each agent's checkpoints.
    """
    callbacks: list[pl.Callback] = [build(node) for node in (configured or {}).values() if node is not None]
    for callback in list(callbacks):
        if isinstance(callback, Throughput):
            callback.started = started
        if members and isinstance(callback, pl.callbacks.ModelCheckpoint) and callback.monitor is not None:
            # The best by the mean over the agents is nobody's best; of the whole batch only the latest is kept.
            callback.save_top_k = 0
            callbacks.append(AgentsBest(callback.monitor, callback.mode, folders, members))
    callbacks.append(Identity(whole))
    for callback in callbacks:
        for hook in _EACH_STEP:
            if getattr(type(callback), hook) is getattr(pl.Callback, hook):
                setattr(callback, hook, None)  # Lightning leaves out what cannot be called
    return callbacks


def make_trainer(
    config: Mapping[str, Any],
    model: Module,
    device: DeviceType,
    precision: PrecisionPlugin,
    logger: Any,
    callbacks: list[pl.Callback],
    output_dir: Path,
    strategy: Strategy | None = None,
) -> pl.Trainer:
    """A Trainer from its configuration.

    Lightning refuses gradient clipping for a module that steps its own optimiser; such a module clips for itself, so
    that `trainer.gradient_clip_val` means the same in every field.

    Args:
        config: of the trainer.
        model: to be trained.
        device: type of the devices.
        precision: Lightning's plugin.
        logger: Lightning's, or False.
        callbacks: all of them.
        output_dir: local folder of the run.
        strategy: of a run over several devices; None for one.
    """
    arguments = {key: value for key, value in config.items() if key not in ("seeds", "strategy")}
    if not model.automatic_optimization:
        model.gradient_clip_val = arguments.pop("gradient_clip_val", None)
        model.gradient_clip_algorithm = arguments.pop("gradient_clip_algorithm", None)
    if arguments.get("profiler") is None:
        arguments["profiler"] = Unprofiled()
    # Where Slurm is around, Lightning would take its tasks for ranks, and its signals as a wish to be queued again.
    alone = [Ranks()] if strategy is None else []
    trainer: pl.Trainer = build(
        arguments,
        accelerator=device,
        strategy=strategy or "auto",
        plugins=[precision, *alone],
        logger=logger,
        callbacks=callbacks,
        default_root_dir=str(output_dir),
        enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
    )
    if strategy is not None:
        # Lightning's ranks ask each other in every step whether one was told to stop; here rank 0 ends the others.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def peers_of(job: Job, output_dir: Path, resume: Path | None, checkpoint: Path | None) -> Peers | None:
    """The other ranks of a run over several devices; None of a run on one.

    Args:
        job: as it was configured.
        output_dir: local folder of the run.
        resume: checkpoint that the training goes on from.
        checkpoint: to test where nothing is trained.
    """
    size = int(job.config["trainer"].get("devices") or 1)
    return Peers(job, size, output_dir, resume, checkpoint) if size > 1 else None


def fit_and_test(
    trainer: pl.Trainer,
    model: Module,
    data: pl.LightningDataModule,
    config: Mapping[str, Any],
    resume: Path | None,
    checkpoint: Path | None,
) -> None:
    """Fits as the configuration says, and tests the best checkpoint.

    Args:
        trainer: of this process.
        model: to be trained.
        data: for it.
        config: the run's.
        resume: checkpoint that the training goes on from.
        checkpoint: to test where nothing is trained.
    """
    try:
        if config["fit"]:
            with fitting_checkpoint():
                trainer.fit(model, datamodule=data, **weights_of(resume))
        if config["test"]:
            weights = best_checkpoint(trainer, model) or checkpoint
            with fitting_checkpoint():
                trainer.test(model, datamodule=data, verbose=False, **weights_of(weights))
    finally:
        launcher = trainer.strategy.launcher
        if isinstance(launcher, Peers):
            launcher.close()


def best_checkpoint(trainer: pl.Trainer, model: Module) -> str:
    """Path of the best checkpoint; empty where none was written, or where each agent has just been given its own."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, AgentsBest):
            callback.load(model)
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
