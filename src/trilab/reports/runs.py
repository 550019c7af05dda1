"""Reading from the store what every report needs."""

import tempfile
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from trilab.tracking.lookup import search
from trilab.tracking.store import MlflowClient


def all_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Every run of an MLflow experiment, however many pages they fill."""
    return search(client, [experiment_id])


def artifact_text(client: MlflowClient, run_id: str, name: str) -> str | None:
    """An artifact of a run; None where it has none of that name."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(client.download_artifacts(run_id, name, folder)).read_text()
        except (MlflowException, OSError):
            return None
