"""An earlier run as its store holds it."""

import os
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from trilab.errors import ConfigError, UserError
from trilab.tracking.settings import redacted, sqlite_path, store_uri
from trilab.tracking.store import MlflowClient

_GROUPS = ("experiment", "model", "data")


def fetch_run(run_id: str, overrides: list[str], folder: Path) -> tuple[dict[str, Any], dict[str, str], Path]:
    """The configuration of a run, the options it chose, and its best checkpoint in `folder`.

    Args:
        run_id: MLflow's id.
        overrides: of which `tracking.uri` says where to look, instead of `MLFLOW_TRACKING_URI` and the current folder.
        folder: where the checkpoint is downloaded to.

    Raises:
        ConfigError: no such store or run, or one of several agents.
        UserError: the run has no checkpoint, or is not one of trilab's.
    """
    given = [text.partition("=")[2].strip("'\"") for text in overrides if text.startswith("tracking.uri=")]
    uri = store_uri(given[-1] if given else os.environ.get("MLFLOW_TRACKING_URI"))
    client, run = _find(run_id, uri, "run")
    missing = [group for group in _GROUPS if f"trilab.{group}" not in run.data.tags]
    if missing:
        raise UserError(f"run={run_id} was not made by trilab train: it has no tag trilab.{missing[0]}.")
    config = yaml.safe_load(Path(client.download_artifacts(run_id, "config.yaml", str(folder))).read_text())
    if config["trainer"].get("seeds"):
        under = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
        each = ", ".join(f"run={member.info.run_id} (seed {member.data.params['seed']})" for member in under[::-1])
        raise ConfigError(f"run={run_id} is of several agents. Evaluate one of them: {each}.")
    checkpoint = _best(client, run, folder)
    if checkpoint is None:
        raise UserError(
            f"run={run_id} ({run.info.status}) has no checkpoint in its artifacts. If its local folder is still there: "
            "trilab evaluate checkpoint=outputs/.../checkpoints/best.ckpt"
        )
    config["tracking"]["uri"] = uri
    return config, {group: run.data.tags[f"trilab.{group}"] for group in _GROUPS}, checkpoint


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


def _find(run_id: str, uri: str, argument: str) -> tuple[MlflowClient, Run]:
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise ConfigError(f"There is no store {database}. Go to the folder of the run, or give tracking.uri=...")
    try:
        client = MlflowClient(uri)
        return client, client.get_run(run_id)
    except SQLAlchemyError as error:
        reason = str(error).partition("[SQL:")[0]
        raise UserError(f"Cannot read the tracking store {redacted(uri)}: {reason}") from error
    except MlflowException:
        raise ConfigError(
            f"{argument}={run_id}: no such run in {redacted(uri)}. Run ids are in the UI: trilab ui."
        ) from None


def _best(client: MlflowClient, run: Run, folder: Path) -> Path | None:
    present = sorted(item.path for item in client.list_artifacts(run.info.run_id, "checkpoints"))
    if not present:
        return None
    name = next((path for path in present if Path(path).stem == "best"), present[0])
    return Path(client.download_artifacts(run.info.run_id, name, str(folder)))
