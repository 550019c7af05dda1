"""The life of an MLflow run: opened before anything is built, ended with what really happened.

A run may have members: several trained as one, each with a run of its own under this one. They are opened after it and
end with it, all of them with the same status.
"""

import contextlib
import getpass
import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Param, RunTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from trilab.signals import Interrupted, interruption, shielded
from trilab.tracking.provenance import environment, git
from trilab.tracking.settings import Tracking, redacted
from trilab.tracking.store import connect

#: MLflow's limits: characters of a parameter's value, parameters of one request.
_PARAM_LENGTH, _PARAM_BATCH = 6000, 100
_CUT = " …[shortened; whole in config.yaml]"

Status = Literal["FINISHED", "FAILED", "KILLED"]


#: A run's name and its tags.
Opening = tuple[str, Mapping[str, str]]


class Run:
    """An open MLflow run, and the members that it may have."""

    def __init__(self, client: MlflowClient, run_id: str, experiment_id: str, settings: Tracking) -> None:
        self.client = client
        self.id = run_id
        self.experiment_id = experiment_id
        self.settings = settings
        self.members: list[Run] = []

    @property
    def all(self) -> "list[Run]":
        """The run itself, then its members."""
        return [self, *self.members]

    def log_config(self, config: Mapping[str, Any], overrides: list[str]) -> None:
        """The whole configuration: flattened as parameters, and as artifacts to run it again from."""
        from omegaconf import OmegaConf

        params = [Param(key, shortened(value)) for key, value in flatten(config).items()]
        for start in range(0, len(params), _PARAM_BATCH):
            self.client.log_batch(self.id, params=params[start : start + _PARAM_BATCH])
        self.client.log_text(self.id, OmegaConf.to_yaml(OmegaConf.create(dict(config))), "config.yaml")
        self.client.log_text(self.id, OmegaConf.to_yaml(OmegaConf.create(overrides)), "overrides.yaml")

    def log_provenance(self) -> None:
        """The installed packages, and what the code differs from its commit by; its members' too."""
        tags, diff = git()
        for run in self.all:
            run.client.log_text(run.id, environment(), "environment.txt")
            run.set_tags(tags)
            if diff:
                run.client.log_text(run.id, diff, "git.diff")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.client.log_batch(self.id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def log_summary(self, summary: Mapping[str, Any]) -> None:
        self.client.log_text(self.id, json.dumps(summary, indent=2, default=str), "summary.json")

    def log_outputs(self, folders: Sequence[Path]) -> None:
        """Uploads what there is in the local folders of the run and of its members.

        That is `checkpoints/`, if the settings say so, and whatever was put into `artifacts/`.
        """
        for run, folder in zip(self.all, folders, strict=True):
            if self.settings.checkpoints and (folder / "checkpoints").is_dir():
                run.client.log_artifacts(run.id, str(folder / "checkpoints"), "checkpoints")
            if (folder / "artifacts").is_dir():
                run.client.log_artifacts(run.id, str(folder / "artifacts"))

    @property
    def where(self) -> str:
        """Where a person finds the run: its page on a server, else the store and the experiment."""
        if self.settings.uri.startswith("http"):
            return f"{redacted(self.settings.uri)}/#/experiments/{self.experiment_id}/runs/{self.id}"
        return f"{redacted(self.settings.uri)}, experiment {self.settings.experiment_name}"


@contextlib.contextmanager
def open_run(settings: Tracking, name: str, tags: Mapping[str, str], members: Sequence[Opening] = ()) -> Iterator[Run]:
    """Opens a run, with its members, and ends each with its true status.

    FINISHED where the body ends; KILLED where SIGINT or SIGTERM ended it; FAILED, with the traceback as an artifact,
    on any other exception. The exception goes on.

    Raises:
        UserError: the store cannot be reached or written.
    """
    client, experiment_id = connect(settings)
    opened: list[Run] = []
    monitor = None
    status: Status = "FAILED"
    try:
        _open(opened, client, experiment_id, settings, (name, tags))
        run = opened[0]
        under = {"mlflow.parentRunId": run.id, "trilab.seed_batch": run.id}
        for member_name, member_tags in members:
            _open(opened, client, experiment_id, settings, (member_name, {**member_tags, **under}))
        run.members = opened[1:]
        monitor = _start_monitor(run)
        yield run
        status = "FINISHED"
    except BaseException as error:
        stopped = error if isinstance(error, Interrupted) else interruption()
        if stopped is not None:
            status = "KILLED"
            with shielded():
                _each(opened, lambda run: run.set_tags({"trilab.end": str(stopped)}))
            if stopped is error:
                raise
            raise stopped from error
        with contextlib.suppress(Exception), shielded():  # the first error is the one to report
            said, text = f"{type(error).__name__}: {str(error)[:400]}", "".join(traceback.format_exception(error))
            _each(opened, lambda run: _leave(run, said, text))
        raise
    finally:
        with shielded():
            if monitor is not None:
                _finish_monitor(monitor)
            _each(opened[::-1], lambda run: client.set_terminated(run.id, status=status))


def _open(opened: list[Run], client: MlflowClient, experiment_id: str, settings: Tracking, opening: Opening) -> None:
    name, tags = opening
    tags = {**_standard_tags(), **settings.tags, **tags, "mlflow.runName": name}
    with shielded():  # a run must not come to be without anybody to end it
        created = client.create_run(experiment_id, run_name=name, tags=tags)
        opened.append(Run(client, created.info.run_id, experiment_id, settings))


def _leave(run: Run, said: str, trace: str) -> None:
    run.set_tags({"trilab.end": said})
    run.client.log_text(run.id, trace, "traceback.txt")


def _each(runs: Sequence[Run], act: Callable[[Run], Any]) -> None:
    """Does it to every run, though it fails for one; where it fails for two, the store is gone."""
    errors: list[Exception] = []
    for run in runs:
        try:
            act(run)
        except Exception as error:
            errors.append(error)
            if len(errors) > 1:
                break
    if errors:
        raise errors[0]


def _standard_tags() -> dict[str, str]:
    from trilab import __version__

    tags = {"trilab.version": __version__, "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(OSError, KeyError):  # no such user: a container with a bare user id
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _start_monitor(run: Run) -> SystemMetricsMonitor | None:
    if not run.settings.system_metrics:
        return None
    monitor = SystemMetricsMonitor(
        run.id, sampling_interval=run.settings.system_metrics_interval_s, tracking_uri=run.settings.uri
    )
    monitor.start()
    return monitor


def _finish_monitor(monitor: SystemMetricsMonitor) -> None:
    with contextlib.suppress(Exception):  # never let the monitor's end decide the run's end
        pending = any(m._metrics for m in monitor.monitors)
        thread = monitor._process
        monitor._shutdown_event.set()
        if thread is not None:
            thread.join()
        if pending:  # a run shorter than the interval still has its one sample
            monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.mlflow_logger.flush()
        monitor._process = None


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by dotted name, as text: `optimizer.lr` -> `0.001`; lists as JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, str):
            flat[name] = value
        else:
            flat[name] = json.dumps(value)
    return flat


def shortened(value: str) -> str:
    """A value that fits into an MLflow parameter; a longer one says that it was shortened."""
    return value if len(value) <= _PARAM_LENGTH else value[: _PARAM_LENGTH - len(_CUT)] + _CUT
