"""A model in a folder of MLflow's format, as one of MLflow's logged models of a run."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput

#: The tag by which a model is known when it is sent again.
_KEY = "trilab.local_id"
_PARAM = 500


def log_model(
    client: MlflowClient, run_id: str, folder: Path, name: str, kind: str, step: int, key: str = ""
) -> LoggedModel:
    """Uploads a model, and makes it an output of its run. What is sent twice under one key is there once.

    Args:
        client: of the store.
        run_id: of the run.
        folder: with MLmodel, as `mlflow.pyfunc.save_model` writes it; its ids are put into it.
        name: of the model.
        kind: MLflow's `model_type`.
        step: of the run at which the model is as it is.
        key: what tells it from others; empty where it is sent but once.
    """
    run = client.get_run(run_id)
    model = _known(client, run.info.experiment_id, run_id, key) or client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run_id,
        tags={_KEY: key} if key else None,
        params={param: value[:_PARAM] for param, value in run.data.params.items()},
        model_type=kind,
    )
    ids = {"run_id": run_id, "model_id": model.model_id, "model_uuid": model.model_id}
    _put_ids(folder / "MLmodel", {**ids, "artifact_path": model.artifact_location})
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=step)])
    return model


def _known(client: MlflowClient, experiment_id: str, run_id: str, key: str) -> LoggedModel | None:
    if not key:
        return None
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    return next((model for model in found if model.tags.get(_KEY) == key), None)


def _put_ids(file: Path, ids: Mapping[str, str]) -> None:
    part = file.with_name("MLmodel.part")
    about = yaml.safe_load(file.read_text(encoding="utf-8"))
    part.write_text(yaml.safe_dump({**about, **ids}), encoding="utf-8")
    part.replace(file)  # the file may be a second name of the one in the run's own folder
