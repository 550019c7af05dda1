"""One run, start to end."""

import contextlib
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trilab.config.job import Job, build
from trilab.errors import ConfigError, say
from trilab.runtime import Accelerator, fast_imports, process_age_s
from trilab.tracking.secrets import without_secrets
from trilab.tracking.settings import Tracking

_first_run = True


def train(
    job: Job,
    output_dir: Path,
    extra_tags: dict[str, str] | None = None,
    checkpoint: Path | None = None,
    members: Sequence[Job] = (),
    goes_on: Path | None = None,
) -> Any:
    """Runs what a job configures and returns its Summary.

    Args:
        job: checked configuration.
        output_dir: local folder of the run, for checkpoints.
        extra_tags: further tags of the MLflow run.
        checkpoint: weights to test (`trilab evaluate`).
        members: the job as it is with each of `trainer.seeds` alone (`Job.of_each_seed`). They are trained at once as
            one batch, each with an MLflow run of its own under the job's, and what is returned is a BatchSummary.
        goes_on: last checkpoint of a run that goes on itself (`trilab resume`): no other is opened.

    Raises:
        ConfigError: this machine cannot run it as asked. No MLflow run was opened.
        UserError: something the user can put right.
    """
    started, config = _start_time(), job.config

    # The machine: what must happen before torch works, and what it gives of what was asked for.
    accelerator: Accelerator = build(config["accelerator"])
    settings: Tracking = build(config["tracking"])
    with fast_imports():
        runtime_tags = accelerator.prepare(config["trainer"].get("devices") or 1)
        from trilab.callbacks.identity import identity
        from trilab.lightning import (
            assemble,
            best_checkpoint,
            callbacks_of,
            fit_and_test,
            make_trainer,
            peers_of,
        )
        from trilab.pretrained import with_checkpoints
        from trilab.resume import source_of
        from trilab.summary import BatchSummary, Summary
        from trilab.tables import short_result, short_speed
        from trilab.tracking.batch import BatchLogger
        from trilab.tracking.describe import NOTE, beginning, finished
        from trilab.tracking.inputs import log_inputs
        from trilab.tracking.logger import MlflowLogger
        from trilab.tracking.reopen import reopen_run
        from trilab.tracking.run import open_run

    device = accelerator.device()
    precision = build(config["precision"]).on(device)
    if precision.warning:
        say(precision.warning)
    if members and precision.name == "16-mixed":
        raise ConfigError(
            "precision=16-mixed has one loss scale, which cannot serve the independent agents of trainer.seeds. "
            "Use bf16-mixed or fp32."
        )
    resume = goes_on or (Path(config["resume"]) if config["fit"] and config.get("resume") else None)
    source = source_of(resume, job) if resume else None
    fetched = output_dir / "pretrained"
    buildable = list(members) or [with_checkpoints(job, fetched)]

    # A run for the job, and under it one for each member; from here on lists have an element for each.
    jobs = [job, *members]
    folders = [output_dir, *(output_dir / f"seed_{member.config['seed']}" for member in members)]
    tags = {
        "trilab.experiment": job.choices["experiment"],
        "trilab.model": job.choices["model"],
        "trilab.data": job.choices["data"],
        "trilab.output_dir": str(output_dir.absolute()),
        "precision.requested": config["precision"]["name"],
        "precision.effective": precision.name,
        **runtime_tags,
        **(extra_tags or {}),
    }
    openings = [(_name(settings, each, job), {**_own_tags(each), **tags}) for each in jobs]
    for (_, own), resumed_from in zip(openings, source.run_ids if source else [], strict=False):
        own["trilab.resumed_from"] = resumed_from
    same_runs = source.run_ids if goes_on and source else []
    with reopen_run(settings, same_runs) if same_runs else open_run(settings, *openings[0], openings[1:]) as run:
        for opened, each in zip(run.all, jobs, strict=True):
            if same_runs:
                opened.set_tags(tags)
                continue
            public = each.public
            opened.log_config(public.config, public.overrides)
            if NOTE not in settings.tags:
                opened.set_tags({NOTE: beginning(public, {**_own_tags(each), **tags}, opened.id)})
        if not same_runs:
            run.log_provenance()
        summaries = [
            Summary(
                experiment=job.choices["experiment"],
                model=job.choices["model"],
                data=job.choices["data"],
                seed=each.config["seed"],
                precision=precision.name,
                accelerator=f"{device} ({runtime_tags['device.name']})",
                goal=job.goal,
                run_id=opened.id,
                store=run.where,
                warnings=[precision.warning] if precision.warning else [],
            )
            for opened, each in zip(run.all, jobs, strict=True)
        ]

        # The data, then a model for it.
        try:
            data, model = assemble(buildable)
        finally:
            shutil.rmtree(fetched, ignore_errors=True)
        solved_at = getattr(data, "threshold", None)
        for summary in summaries:
            if summary.goal["threshold"] is None and solved_at is not None:
                summary.goal["threshold"], summary.goal["source"] = solved_at
        if not members:  # stacked weights have an axis more than the formats know
            model.to(memory_format=accelerator.torch_memory_format)
        for opened in run.all:
            opened.set_tags({"trilab.x_axis": model.x_axis})
            log_inputs(opened.outbox, job.choices["data"], config["data"], data)

        # The trainer: the same for every field.
        run_id, *own_ids = [opened.id for opened in run.all]
        if members:
            logger: MlflowLogger = BatchLogger(run, output_dir)
        else:
            logger = MlflowLogger(run, output_dir)
        if same_runs:  # what was reported before belongs to the result too
            for part, opened in zip(logger.all, run.all, strict=True):
                part.latest.update(run.client.get_run(opened.id).data.metrics)
        callbacks = callbacks_of(
            config["callbacks"],
            started,
            identity(job, run_id, own_ids),
            [identity(member, own_id) for member, own_id in zip(members, own_ids, strict=True)],
            [folder / "checkpoints" for folder in folders[1:]],
        )
        peers = peers_of(job, output_dir, resume, checkpoint)
        strategy = peers.strategy(device) if peers else None
        trainer = make_trainer(
            config["trainer"], model, device, precision.plugin, logger, callbacks, output_dir, strategy
        )

        # Fit, and test the best checkpoint.
        try:
            fit_and_test(trainer, model, data, config, resume, checkpoint)
        except BaseException:
            with contextlib.suppress(Exception):  # what ended the run is the error to report
                run.log_outputs(folders)
            with contextlib.suppress(Exception):  # Lightning leaves environments open, and their processes running
                data.teardown("fit")
            raise
        run.log_outputs(folders)
        if config["fit"] and not members and settings.logs_model("trilab.sweep" in tags):
            from trilab.serving.at_end import log_trained

            untested = None if config["test"] else best_checkpoint(trainer, model)
            log_trained(run, model, data, job.choices, output_dir, untested)
        if config["trainer"].get("fast_dev_run"):  # Lightning then switches every logger off
            logger.log_metrics({name: float(value) for name, value in trainer.callback_metrics.items()}, step=model.x)
        for part, summary in zip(logger.all, summaries, strict=True):
            summary.reference = dict(getattr(data, "reference", {}))
            part.log_metrics(summary.reference, step=model.x)
            summary.metrics = dict(part.latest)
        result = BatchSummary(summaries[0], summaries[1:]) if members else summaries[0]
        speed = f"{short_speed(result, with_memory=True)}{', of all agents together' if members else ''}"
        for opened, what in zip(run.all, [result, *summaries[1:]], strict=True):
            opened.log_summary(what.as_dict())
            opened.outbox.headline(finished(short_result(what), speed))
    for opened, summary in zip(run.all, summaries, strict=True):  # now it is known whether the store has it
        summary.run_id, summary.store = opened.id, opened.where
    return result


def _name(settings: Tracking, job: Job, whole: Job) -> str:
    if settings.run_name is None:
        return job.name
    if job.swept:  # every run of a sweep has the name that is asked for
        return f"{settings.run_name} {job.name}"
    return settings.run_name if job is whole else f"{settings.run_name} seed={job.config['seed']}"


def _own_tags(job: Job) -> dict[str, str]:
    command = shlex.join(["trilab", "train", *without_secrets(job.overrides)])
    return {"trilab.config_hash": job.hash, "mlflow.source.name": command}


def _start_time() -> float:
    """When this run began: with the process for its first run, so that imports count; now for a later one."""
    global _first_run
    if not _first_run:
        return time.time()
    _first_run = False
    return time.time() - process_age_s()
