"""An earlier run as its store holds it."""

import os
from pathlib import Path
from typing import Any

import yaml
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
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise ConfigError(f"There is no store {database}. Go to the folder of the run, or give tracking.uri=...")
    try:
        client = MlflowClient(uri)
        run = client.get_run(run_id)
    except SQLAlchemyError as error:
        reason = str(error).partition("[SQL:")[0]
        raise UserError(f"Cannot read the tracking store {redacted(uri)}: {reason}") from error
    except MlflowException:
        raise ConfigError(f"run={run_id}: no such run in {redacted(uri)}. Run ids are in the UI: trilab ui.") from None
    missing = [group for group in _GROUPS if f"trilab.{group}" not in run.data.tags]
    if missing:
        raise UserError(f"run={run_id} was not made by trilab train: it has no tag trilab.{missing[0]}.")
    config = yaml.safe_load(Path(client.download_artifacts(run_id, "config.yaml", str(folder))).read_text())
    if config["trainer"].get("seeds"):
        under = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
        each = ", ".join(f"run={member.info.run_id} (seed {member.data.params['seed']})" for member in under[::-1])
        raise ConfigError(f"run={run_id} is of several agents. Evaluate one of them: {each}.")
    present = {item.path for item in client.list_artifacts(run_id, "checkpoints")}
    if not present:
        raise UserError(
            f"run={run_id} ({run.info.status}) has no checkpoint in its artifacts. If its local folder is still there: "
            "trilab evaluate checkpoint=outputs/.../checkpoints/best.ckpt"
        )
    name = next((path for path in sorted(present) if Path(path).stem == "best"), sorted(present)[0])
    config["tracking"]["uri"] = uri
    checkpoint = Path(client.download_artifacts(run_id, name, str(folder)))
    return config, {group: run.data.tags[f"trilab.{group}"] for group in _GROUPS}, checkpoint
