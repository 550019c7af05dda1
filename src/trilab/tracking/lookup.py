"""An earlier run as its store holds it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from trilab.config.allowed import check_stored
from trilab.config.job import Job
from trilab.errors import ConfigError, UserError
from trilab.tracking.settings import redacted, sqlite_path, store_uri
from trilab.tracking.spool import is_local
from trilab.tracking.store import MlflowClient

_GROUPS = ("experiment", "model", "data")


@dataclass(frozen=True)
class StoredRun:
    """A run that trilab made, and the store that it is in."""

    client: MlflowClient
    uri: str
    run: Run
    job: Job

    @property
    def id(self) -> str:
        return str(self.run.info.run_id)

    @property
    def tags(self) -> Mapping[str, str]:
        tags: Mapping[str, str] = self.run.data.tags
        return tags

    def text(self, name: str, folder: Path) -> str:
        """An artifact's content; empty where the run has none of that name."""
        if name not in {item.path for item in self.client.list_artifacts(self.id)}:
            return ""
        return Path(self.client.download_artifacts(self.id, name, str(folder))).read_text(encoding="utf-8")

    def checkpoints(self, folder: Path) -> Path | None:
        """All its checkpoints, in one folder; None where it has none."""
        if not self.client.list_artifacts(self.id, "checkpoints"):
            return None
        return Path(self.client.download_artifacts(self.id, "checkpoints", str(folder)))

    def members(self, folder: Path) -> "list[StoredRun]":
        """The runs of the agents that it trained as one batch, in that order; none of another run."""
        seeds = self.job.config["trainer"].get("seeds") or []
        if not seeds:
            return []
        found = self.client.search_runs([self.run.info.experiment_id], f"tags.`trilab.seed_batch` = '{self.id}'")
        by_seed = {run.data.params["seed"]: run.info.run_id for run in found}
        override = [f"tracking.uri={self.uri}"]
        return [find_run(by_seed[str(seed)], override, folder / str(seed)) for seed in seeds if str(seed) in by_seed]


def uri_of(overrides: Sequence[str]) -> str:
    """The store to look in: `tracking.uri` of the overrides, else `MLFLOW_TRACKING_URI`, else the current folder's."""
    given = [text.partition("=")[2].strip("'\"") for text in overrides if text.startswith("tracking.uri=")]
    return store_uri(given[-1] if given else os.environ.get("MLFLOW_TRACKING_URI"))


def find_run(run_id: str, overrides: Sequence[str], folder: Path) -> StoredRun:
    """A run with its configuration, which builds nothing but what `trilab.config.allowed` names.

    Args:
        run_id: MLflow's id.
        overrides: of which `tracking.uri` says where to look.
        folder: artifacts are downloaded to it.

    Raises:
        ConfigError: no such store or run, or a configuration that is not allowed.
        UserError: the run is not one of trilab's, or the store cannot be read.
    """
    uri = uri_of(overrides)
    client, run = _find(run_id, uri, "run")
    run_id = run.info.run_id  # where it was named by its local one
    missing = [group for group in _GROUPS if f"trilab.{group}" not in run.data.tags]
    if missing:
        raise UserError(f"run={run_id} was not made by trilab train: it has no tag trilab.{missing[0]}.")
    folder.mkdir(parents=True, exist_ok=True)
    config = _yaml(client, run_id, "config.yaml", folder)
    if not isinstance(config, dict) or not isinstance(config.get("tracking"), dict):
        raise UserError(f"run={run_id} has no configuration in its artifacts (config.yaml), or a damaged one.")
    check_stored(config, f"run={run_id}")
    config["tracking"]["uri"] = uri
    overrides_typed = _yaml(client, run_id, "overrides.yaml", folder)
    typed = [str(text) for text in overrides_typed] if isinstance(overrides_typed, list) else []
    choices = {group: run.data.tags[f"trilab.{group}"] for group in _GROUPS}
    return StoredRun(client, uri, run, Job(config, choices, typed))


def fetch_run(run_id: str, overrides: list[str], folder: Path) -> tuple[dict[str, Any], dict[str, str], Path]:
    """The configuration of a run, the options it chose, and its best checkpoint in `folder`.

    Args:
        run_id: MLflow's id.
        overrides: of which `tracking.uri=` says where to look, instead of `MLFLOW_TRACKING_URI` and the current folder.
        folder: where the checkpoint is downloaded to.

    Raises:
        ConfigError: no such store or run, or one of several agents.
        UserError: the run has no checkpoint, or is not one of trilab's.
    """
    stored = find_run(run_id, overrides, folder)
    if stored.job.config["trainer"].get("seeds"):
        members = stored.members(folder)
        each = ", ".join(f"run={member.id} (seed {member.job.config['seed']})" for member in members)
        raise ConfigError(f"run={run_id} is of several agents. Evaluate one of them: {each}.")
    checkpoint = _best(stored.client, stored.run, folder)
    if checkpoint is None:
        raise UserError(
            f"run={run_id} ({stored.run.info.status}) has no checkpoint in its artifacts. If its local folder is still "
            "there: trilab evaluate checkpoint=outputs/.../checkpoints/best.ckpt"
        )
    return stored.job.config, dict(stored.job.choices), checkpoint


def fetch_checkpoint(run_id: str, uri: str, argument: str, folder: Path) -> Path:
    """The best checkpoint of a run, downloaded into `folder`.

    Args:
        run_id: MLflow's id.
        uri: of the store, absolute.
        argument: what the user named the run by, for messages.
        folder: where to.

    Raises:
        ConfigError: no such store or run, or one without a checkpoint.
        UserError: the store cannot be read.
    """
    client, run = _find(run_id, uri, argument)
    checkpoint = _best(client, run, folder)
    if checkpoint is None:
        raise ConfigError(f"{argument}={run_id}: that run ({run.info.status}) has no checkpoint in its artifacts.")
    return checkpoint


def search(client: MlflowClient, experiment_ids: Sequence[str], condition: str = "") -> list[Run]:
    """Every run of some MLflow experiments that fulfils a condition, however many pages they fill."""
    if not experiment_ids:
        return []
    page = client.search_runs(list(experiment_ids), condition)
    runs = list(page)
    while page.token:
        page = client.search_runs(list(experiment_ids), condition, page_token=page.token)
        runs += page
    return runs


def children(client: MlflowClient, run_id: str) -> list[Run]:
    """The runs that are nested under another, in whatever experiments."""
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    return search(client, everywhere, f"tags.`mlflow.parentRunId` = '{run_id}'")


def run_of(client: MlflowClient, run_id: str) -> Run:
    """A run by MLflow's id, or by the local one that it had while the store had given it none.

    Raises:
        MlflowException: there is none.
    """
    if is_local(run_id):
        everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
        found = search(client, everywhere, f"tags.`trilab.local_id` = '{run_id}'")
        if found:
            return found[0]
    return client.get_run(run_id)


def histories(client: MlflowClient, run_id: str) -> dict[str, list[Metric]]:
    """Every point of every metric of a run, by name."""
    names = client.get_run(run_id).data.metrics
    return {name: list(client.get_metric_history(run_id, name)) for name in sorted(names)}


def open_store(uri: str) -> MlflowClient:
    """A client of a store that is there.

    Raises:
        ConfigError: there is no such file.
    """
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise ConfigError(f"There is no store {database}. Go to the folder of the run, or give tracking.uri=...")
    return MlflowClient(uri)


def _find(run_id: str, uri: str, argument: str) -> tuple[MlflowClient, Run]:
    try:
        client = open_store(uri)
        return client, run_of(client, run_id)
    except SQLAlchemyError as error:
        reason = str(error).partition("[SQL:")[0]
        raise UserError(f"Cannot read the tracking store {redacted(uri)}: {reason}") from error
    except MlflowException:
        hint = "trilab sync sends what waits for it." if is_local(run_id) else "Run ids are in the UI: trilab ui."
        raise ConfigError(f"{argument}={run_id}: no such run in {redacted(uri)}. {hint}") from None


def _yaml(client: MlflowClient, run_id: str, name: str, folder: Path) -> Any:
    """What a YAML artifact holds; None where the run has none, or one that is no YAML."""
    try:
        return yaml.safe_load(Path(client.download_artifacts(run_id, name, str(folder))).read_text(encoding="utf-8"))
    except (MlflowException, OSError, UnicodeError, yaml.YAMLError):
        return None


def _best(client: MlflowClient, run: Run, folder: Path) -> Path | None:
    present = sorted(item.path for item in client.list_artifacts(run.info.run_id, "checkpoints"))
    if not present:
        return None
    name = next((path for path in present if Path(path).stem == "best"), present[0])
    return Path(client.download_artifacts(run.info.run_id, name, str(folder)))
