"""Reading from the store what every report needs."""

import tempfile
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from trilab.tracking.store import MlflowClient


def all_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Every run of an MLflow experiment, however many pages they fill."""
    page = client.search_runs([experiment_id])
    runs = list(page)
    while page.token:
        page = client.search_runs([experiment_id], page_token=page.token)
        runs += page
    return runs


def artifact_text(client: MlflowClient, run_id: str, name: str) -> str | None:
    """An artifact of a run; None where it has none of that name."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(client.download_artifacts(run_id, name, folder)).read_text()
        except (MlflowException, OSError):
            return None
