"""One run, start to end."""

import contextlib
import shlex
import time
from pathlib import Path
from typing import Any

from trilab.config.job import Job, build
from trilab.errors import say
from trilab.runtime import Accelerator, fast_imports, process_age_s
from trilab.tracking.settings import Tracking

_first_run = True


def train(job: Job, output_dir: Path, extra_tags: dict[str, str] | None = None, checkpoint: Path | None = None) -> Any:
    """Runs what a job configures and returns its Summary.

    Args:
        job: checked configuration.
        output_dir: local folder of the run, for checkpoints.
        extra_tags: further tags of the MLflow run.
        checkpoint: weights to start from (`trilab evaluate`).

    Raises:
        ConfigError: this machine cannot run it as asked. No MLflow run was opened.
        UserError: something the user can put right.
    """
    started, config = _start_time(), job.config

    # The machine: what must happen before torch works, and what it gives of what was asked for.
    accelerator: Accelerator = build(config["accelerator"])
    settings: Tracking = build(config["tracking"])
    with fast_imports():
        runtime_tags = accelerator.prepare()
        from trilab.lightning import (
            best_checkpoint,
            callbacks_of,
            fitting_checkpoint,
            make_trainer,
            seed_everything,
            weights_of,
        )
        from trilab.summary import Summary
        from trilab.tracking.logger import MlflowLogger
        from trilab.tracking.run import open_run

    device = accelerator.device()
    precision = build(config["precision"]).on(device)
    if precision.warning:
        say(precision.warning)
    tags = {
        "trilab.experiment": job.choices["experiment"],
        "trilab.model": job.choices["model"],
        "trilab.data": job.choices["data"],
        "trilab.config_hash": job.hash,
        "precision.requested": config["precision"]["name"],
        "precision.effective": precision.name,
        "mlflow.source.name": shlex.join(["trilab", "train", *job.public.overrides]),
        **runtime_tags,
        **(extra_tags or {}),
    }
    with open_run(settings, settings.run_name or job.name, tags) as run:
        run.log_config(job.public.config, job.public.overrides)
        run.log_provenance()
        summary = Summary(
            experiment=job.choices["experiment"],
            model=job.choices["model"],
            data=job.choices["data"],
            seed=config["seed"],
            precision=precision.name,
            accelerator=f"{device} ({runtime_tags['device.name']})",
            goal=dict(config["goal"]),
            run_id=run.id,
            store=run.where,
            warnings=[precision.warning] if precision.warning else [],
        )

        # The data, then a model for it.
        seed_everything(config["seed"])
        data = build(config["data"])
        data.prepare_data()
        data.setup("fit")
        solved_at = getattr(data, "threshold", None)
        if summary.goal["threshold"] is None and solved_at is not None:
            summary.goal["threshold"], summary.goal["source"] = solved_at
        model = build(
            config["model"], spec=data.spec, optimizer=build(config["optimizer"]), schedule=build(config["scheduler"])
        )
        model.to(memory_format=accelerator.torch_memory_format)
        run.set_tags({"trilab.x_axis": model.x_axis})

        # The trainer: the same for every field.
        logger = MlflowLogger(run.client, run.id, output_dir, settings.flush_s)
        callbacks = callbacks_of(config["callbacks"], job.public, run.id, started)
        trainer = make_trainer(config["trainer"], model, device, precision.plugin, logger, callbacks, output_dir)

        # Fit, and test the best checkpoint.
        try:
            if config["fit"]:
                trainer.fit(model, datamodule=data, **weights_of(checkpoint))
            if config["test"]:
                weights = best_checkpoint(trainer) or checkpoint
                with fitting_checkpoint():
                    trainer.test(model, datamodule=data, verbose=False, **weights_of(weights))
        except BaseException:
            with contextlib.suppress(Exception):  # what ended the run is the error to report
                logger.flush()
                run.log_checkpoints(output_dir / "checkpoints")
            raise
        run.log_checkpoints(output_dir / "checkpoints")
        if config["trainer"].get("fast_dev_run"):  # Lightning then switches every logger off
            logger.log_metrics({name: float(value) for name, value in trainer.callback_metrics.items()}, step=model.x)
        summary.reference = dict(getattr(data, "reference", {}))
        logger.log_metrics(summary.reference, step=model.x)
        logger.flush()
        summary.metrics = dict(logger.latest)
        run.log_summary(summary.as_dict())
    return summary


def _start_time() -> float:
    """When this run began: with the process for its first run, so that imports count; now for a later one."""
    global _first_run
    if not _first_run:
        return time.time()
    _first_run = False
    return time.time() - process_age_s()
