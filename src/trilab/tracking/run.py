"""The life of one MLflow run: opened before anything is built, ended with what really happened."""

import contextlib
import getpass
import json
import traceback
from collections.abc import Iterator, Mapping
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


class Run:
    """An open MLflow run."""

    def __init__(self, client: MlflowClient, run_id: str, experiment_id: str, settings: Tracking) -> None:
        self.client = client
        self.id = run_id
        self.experiment_id = experiment_id
        self.settings = settings

    def log_config(self, config: Mapping[str, Any], overrides: list[str]) -> None:
        """The whole configuration: flattened as parameters, and as artifacts to run it again from."""
        from omegaconf import OmegaConf

        params = [Param(key, shortened(value)) for key, value in flatten(config).items()]
        for start in range(0, len(params), _PARAM_BATCH):
            self.client.log_batch(self.id, params=params[start : start + _PARAM_BATCH])
        self.client.log_text(self.id, OmegaConf.to_yaml(OmegaConf.create(dict(config))), "config.yaml")
        self.client.log_text(self.id, OmegaConf.to_yaml(OmegaConf.create(overrides)), "overrides.yaml")

    def log_provenance(self) -> None:
        """The installed packages, and what the code differs from its commit by."""
        self.client.log_text(self.id, environment(), "environment.txt")
        tags, diff = git()
        self.set_tags(tags)
        if diff:
            self.client.log_text(self.id, diff, "git.diff")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.client.log_batch(self.id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def log_summary(self, summary: Mapping[str, Any]) -> None:
        self.client.log_text(self.id, json.dumps(summary, indent=2, default=str), "summary.json")

    def log_checkpoints(self, folder: Path) -> None:
        """Uploads a folder of checkpoints, if the settings say so and there is one."""
        if self.settings.checkpoints and folder.is_dir():
            self.client.log_artifacts(self.id, str(folder), "checkpoints")

    @property
    def where(self) -> str:
        """Where a person finds the run: its page on a server, else the store and the experiment."""
        if self.settings.uri.startswith("http"):
            return f"{redacted(self.settings.uri)}/#/experiments/{self.experiment_id}/runs/{self.id}"
        return f"{redacted(self.settings.uri)}, experiment {self.settings.experiment_name}"


@contextlib.contextmanager
def open_run(settings: Tracking, name: str, tags: Mapping[str, str]) -> Iterator[Run]:
    """Opens a run and ends it with its true status.

    FINISHED where the body ends; KILLED where SIGINT or SIGTERM ended it; FAILED, with the traceback as an artifact,
    on any other exception. The exception goes on.

    Raises:
        UserError: the store cannot be reached or written.
    """
    client, experiment_id = connect(settings)
    with shielded():  # a run must not come to be without anybody to end it
        created = client.create_run(
            experiment_id, run_name=name, tags={**_standard_tags(), **settings.tags, **tags, "mlflow.runName": name}
        )
        run = Run(client, created.info.run_id, experiment_id, settings)
    monitor = None
    status: Status = "FAILED"
    try:
        monitor = _start_monitor(run)
        yield run
        status = "FINISHED"
    except BaseException as error:
        stopped = error if isinstance(error, Interrupted) else interruption()
        if stopped is not None:
            status = "KILLED"
            with shielded():
                run.set_tags({"trilab.end": str(stopped)})
            if stopped is error:
                raise
            raise stopped from error
        with contextlib.suppress(Exception), shielded():  # the first error is the one to report
            run.set_tags({"trilab.end": f"{type(error).__name__}: {str(error)[:400]}"})
            client.log_text(run.id, "".join(traceback.format_exception(error)), "traceback.txt")
        raise
    finally:
        with shielded():
            if monitor is not None:
                _finish_monitor(monitor)
            client.set_terminated(run.id, status=status)


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
