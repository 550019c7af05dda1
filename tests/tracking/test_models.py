"""Models of runs: logged once, whatever happens to the store, and never at the cost of the run."""

import sqlite3
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from conftest import FEW_STEPS, small
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from packaging.requirements import Requirement
from patience import send_all
from test_train import trilab

from trilab.tracking.run import open_run
from trilab.tracking.settings import Tracking

Runs = Callable[[], list[Run]]
DEEPFM = ["experiment=recsys/deepfm_synthetic", *FEW_STEPS, *small("recsys/deepfm_synthetic"), "accelerator=cpu"]


def _settings(workdir: Path, wait_s: float = 60.0) -> Tracking:
    return Tracking("t", uri=f"sqlite:///{workdir}/mlflow.db", system_metrics=False, wait_s=wait_s)


def _models(workdir: Path, run: Run) -> list[LoggedModel]:
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    return list(client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder as MLflow writes one of a model, without a model."""
    folder = tmp_path / "package"
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": {"loader_module": "x"}}}))
    (folder / "data" / "weights").write_text("w")
    return folder


@pytest.mark.parametrize("away", [False, True])
def test_a_model_is_an_output_of_its_run(away: bool, workdir: Path, package: Path) -> None:
    with sqlite3.connect(workdir / "mlflow.db", isolation_level=None) as other:
        if away:
            other.execute("BEGIN EXCLUSIVE")
        with open_run(_settings(workdir, wait_s=0 if away else 60), "r", {}) as opened:
            opened.outbox.params({"lr": "1"})
            opened.outbox.model(package, "recsys_x", "rows", 7)
            if not away:
                assert opened.flush()
        if away:
            other.execute("ROLLBACK")
            (package / "data" / "weights").unlink()  # the spool has kept it
            send_all()
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    [run] = client.search_runs(["1"])
    [model] = _models(workdir, run)
    assert (model.name, model.model_type, str(model.status)) == ("recsys_x", "rows", "READY")
    assert model.params == {"lr": "1"}
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(model.model_id, 7)]
    files = Path(mlflow.artifacts.download_artifacts(model.artifact_location, dst_path=str(workdir / "fetched")))
    about = yaml.safe_load((files / "MLmodel").read_text())
    assert (about["run_id"], about["model_id"]) == (run.info.run_id, model.model_id)
    assert (files / "data" / "weights").read_text() == "w"


def test_a_model_whose_upload_broke_off_is_there_once(
    workdir: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finalize = MlflowClient.finalize_logged_model

    def fail(*_: object) -> None:
        raise OSError(104, "Connection reset by peer")

    monkeypatch.setattr(MlflowClient, "finalize_logged_model", fail)
    with open_run(_settings(workdir, wait_s=0), "r", {}) as opened:
        opened.outbox.model(package, "recsys_x", "rows", 7)
    monkeypatch.setattr(MlflowClient, "finalize_logged_model", finalize)
    send_all()
    send_all()
    [run] = MlflowClient(f"sqlite:///{workdir}/mlflow.db").search_runs(["1"])
    [model] = _models(workdir, run)
    assert str(model.status) == "READY"
    assert len(run.outputs.model_outputs) == 1


@pytest.mark.slow
def test_a_run_logs_a_model_that_answers_with_signature_and_example(runs: Runs, workdir: Path) -> None:
    assert trilab("train", *DEEPFM, "tracking.model=true") == 0
    [run] = runs()
    [model] = _models(workdir, run)
    mlflow.set_tracking_uri(f"sqlite:///{workdir}/mlflow.db")
    uri = f"models:/{model.model_id}"
    loaded = mlflow.pyfunc.load_model(uri)
    assert loaded.metadata.signature is not None
    requirements = [Requirement(line) for line in Path(mlflow.pyfunc.get_model_dependencies(uri)).read_text().split()]
    assert {"torch", "mlflow"} <= {need.name for need in requirements}
    assert not [need for need in requirements if not need.specifier.contains(version(need.name).partition("+")[0])]
    example = loaded.input_example
    assert example is not None
    answer = loaded.predict(example)
    values = np.concatenate([np.ravel(np.asarray(value)) for value in answer.values()])
    assert len(values) >= 2
    assert ((values >= 0) & (values <= 1)).all()
    assert not [path for path in (workdir / "outputs").rglob("*") if path.suffix in (".pkl", ".pickle")]


@pytest.mark.slow
def test_a_sweep_logs_none_unless_it_is_told_to(runs: Runs, workdir: Path) -> None:
    assert trilab("train", "-m", *DEEPFM, "seed=1,2") == 0
    assert [_models(workdir, run) for run in runs()] == [[], [], []]


def test_a_model_that_cannot_be_exported_ends_no_run(
    runs: Runs, workdir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no graph")

    monkeypatch.setattr("trilab.serving.at_end.write", fail)
    assert trilab("train", *DEEPFM, "tracking.model=true", "tracking.system_metrics=false") == 0
    [run] = runs()
    assert run.info.status == "FINISHED"
    assert run.data.tags["trilab.model_error"] == "the model could not be logged: no graph"
    assert "test/auc" in run.data.metrics
    assert capfd.readouterr().err.count("no graph") == 1
