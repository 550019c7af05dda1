"""A run's model in the registry, and what it answers from there, against the run's own test."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.entities import Run
from test_predict import SMALL as CLICKS
from test_resume import TRAIN, client
from test_serve import free_port
from test_train import small, trilab

from trilab.callbacks.identity import KEY, read_checkpoint
from trilab.config.job import Job
from trilab.lightning import assemble
from trilab.serving.package import Served, load
from trilab.serving.registry import fetch_model

pytestmark = pytest.mark.slow  # runs through the command line
Runs = Callable[[], list[Run]]


def assembled(workdir: Path) -> tuple[Any, Any]:
    """Data and model of the only run, with its best weights."""
    content = read_checkpoint(next((workdir / "outputs").rglob("best.ckpt")), "checkpoint")
    data, model = assemble([Job(content[KEY]["config"], content[KEY]["choices"])])
    model.load_state_dict(content["state_dict"])
    return data, model.eval()


def registered(workdir: Path, name: str) -> Served:
    folder = workdir / "fetched"
    folder.mkdir()
    return load(fetch_model(f"models:/{name}@champion", f"sqlite:///{workdir}/mlflow.db", folder))


def register(runs: Runs, name: str) -> None:
    assert trilab("register", runs()[-1].info.run_id, "--name", name, "--alias=champion") == 0


@contextlib.contextmanager
def mlflow_server(model: str) -> Iterator[str]:
    """The address at which `mlflow models serve` answers."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local",
               "-p", str(port), "-h", "127.0.0.1", "--workers", "1"]  # fmt: skip
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # MLflow starts uvicorn by name
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": path},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < deadline
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def post(address: str, content: Any) -> Any:
    request = urllib.request.Request(
        address, json.dumps(content).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_images_are_answered_as_the_test_did(runs: Runs, workdir: Path, monkeypatch: pytest.MonkeyPatch):
    assert trilab("train", *TRAIN) == 0
    before = runs()[0]
    points = {name: len(client().get_metric_history(before.info.run_id, name)) for name in before.data.metrics}
    register(runs, "digits")
    after = runs()[0]
    assert (after.info.status, after.info.end_time) == (before.info.status, before.info.end_time)
    assert {name: len(client().get_metric_history(after.info.run_id, name)) for name in after.data.metrics} == points

    data, _ = assembled(workdir)
    [(pixels, labels)] = list(_raw_test_images(data))
    served = registered(workdir, "digits")
    answer = served.compute(served.contract.frame_inputs(pixels.numpy()))
    accuracy = float((torch.from_numpy(answer["classes"]) == labels).float().mean())
    assert accuracy == pytest.approx(before.data.metrics["test/accuracy"], abs=1e-6)

    # MLflow's own loader gives the same, and the model holds no pickle.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workdir}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{workdir}/mlflow.db")
    try:
        loaded = mlflow.pyfunc.load_model("models:/digits@champion")
        by_mlflow = loaded.predict(pixels.numpy())
        np.testing.assert_array_equal(by_mlflow["probabilities"], answer["probabilities"])
        assert loaded.metadata.signature.inputs.is_tensor_spec()
        # The one that the run logged at its end, and the registered one.
        logged = client().search_logged_models([before.info.experiment_id])
        assert {one.source_run_id for one in logged} == {before.info.run_id}
        version = client().get_model_version_by_alias("digits", "champion")
        assert version.source in {one.artifact_location for one in logged}
        with mlflow_server("models:/digits@champion") as address:
            answered = post(f"{address}/invocations", {"inputs": pixels[:3].tolist()})["predictions"]
        assert answered["classes"] == answer["classes"][:3].tolist()
        np.testing.assert_allclose(answered["probabilities"], answer["probabilities"][:3], rtol=1e-5)
    finally:
        mlflow.set_tracking_uri("")
    folder = next((workdir / "mlartifacts").rglob("MLmodel")).parent
    assert not [path for path in folder.rglob("*") if path.suffix in {".pkl", ".pth", ".pickle", ".joblib"}]


def _raw_test_images(data: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The files' own bytes of the test images that the run used, all of them here."""
    root = Path(str(data._root))
    raw = np.fromfile(root / "MNIST/raw/t10k-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
    labels = np.fromfile(root / "MNIST/raw/t10k-labels-idx1-ubyte", np.uint8)[8:]
    yield torch.from_numpy(raw.copy()), torch.from_numpy(labels.astype(np.int64))


def test_raw_rows_are_scored_as_predict_scores_them(runs: Runs, workdir: Path, fake_data: Path):
    assert trilab("train", *CLICKS) == 0
    run = runs()[-1].info.run_id
    raw = fake_data / "criteo-sample" / "criteo_test.txt"
    assert trilab("predict", f"run={run}", f"input={raw}", "output=out.csv", "precision=fp32") == 0
    expected = pd.read_csv("out.csv")["probability"].to_numpy()
    register(runs, "clicks")
    served = registered(workdir, "clicks")
    names = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
    frame = pd.read_csv(raw, sep="\t", names=names, dtype={f"C{i}": str for i in range(1, 27)})
    answer = served.compute(served.contract.frame_inputs(frame))
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-5)
    records = json.loads(frame.drop(columns="label").to_json(orient="records"))
    body = served.contract.request(100).model_validate({"rows": records})
    np.testing.assert_array_equal(
        served.compute(served.contract.inputs(body))["probabilities"], answer["probabilities"]
    )
    with mlflow_server(str(next((workdir / "mlartifacts").rglob("MLmodel")).parent)) as address:
        answered = post(f"{address}/invocations", {"dataframe_records": records[:5]})["predictions"]
    np.testing.assert_allclose(answered["probabilities"], expected[:5], rtol=1e-5)


def test_pairs_are_scored_with_what_is_known_of_each(runs: Runs, workdir: Path):
    assert trilab("train", *small("recsys/deepfm_movielens_100k")) == 0
    register(runs, "films")
    data, model = assembled(workdir)
    users, items = torch.tensor([0, 3, 3]), torch.tensor([5, 0, 7])
    with torch.no_grad():
        expected = model(*data.rows(users, items)).double().sigmoid().numpy()
    served = registered(workdir, "films")
    body = served.contract.request(9).model_validate(
        {"rows": [{"user": int(u), "item": int(i)} for u, i in zip(users, items, strict=True)]}
    )
    np.testing.assert_allclose(served.compute(served.contract.inputs(body))["probabilities"], expected, rtol=1e-5)


@pytest.mark.parametrize("experiment", ["rl/double_dqn_cartpole", "rl/rainbow_cartpole", "rl/q_learning_taxi"])
def test_observations_are_answered_as_the_agent_acts(experiment: str, runs: Runs, workdir: Path):
    assert trilab("train", *small(experiment)) == 0
    register(runs, "agent")
    data, model = assembled(workdir)
    generator = np.random.default_rng(0)
    if data.spec.num_states is None:
        observations = generator.normal(size=(5, *data.spec.observation_shape)).astype(np.float32)
    else:
        observations = generator.integers(data.spec.num_states, size=5)
    served = registered(workdir, "agent")
    answer = served.compute(served.contract.frame_inputs(observations))
    np.testing.assert_allclose(answer["q_values"], model.action_values(exploring=False)(observations), rtol=1e-4)
    np.testing.assert_array_equal(answer["actions"], model.policy()(observations))


def test_mistakes_get_one_line(runs: Runs, workdir: Path, capsys: pytest.CaptureFixture[str]):
    assert trilab("train", *TRAIN, "tracking.checkpoints=false") == 0
    run = runs()[-1].info.run_id
    foreign = client().create_run("0").info.run_id
    capsys.readouterr()
    for arguments, code, message in (
        ([run], 2, "register needs --name NAME"),
        (["--name", "x"], 2, "register needs one run"),
        ([run, "--name", "a/b"], 2, "--name a/b: a registered model's name has no '/'"),
        ([run, "--name", "x", "--alias", "v1"], 2, "--alias v1: expected letters"),
        ([run, "--nmae", "x"], 2, "no option '--nmae'. Did you mean '--name'?"),
        ([run, "--name"], 2, "--name needs a value."),
        (["0" * 32, "--name", "x"], 2, "no such run"),
        ([foreign, "--name", "x"], 1, "was not made by trilab train"),
        ([run, "--name", "x"], 1, "has no checkpoint in its artifacts"),
    ):
        assert trilab("register", *arguments) == code
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1, error
    assert not client().search_registered_models()


def test_a_second_registration_is_the_next_version(runs: Runs, workdir: Path, capsys: pytest.CaptureFixture[str]):
    assert trilab("train", *small("recsys/deepfm_synthetic")) == 0
    register(runs, "it's one")
    register(runs, "it's one")
    assert "trilab serve models:/it's one@champion" in capsys.readouterr().out
    assert [int(v.version) for v in client().search_model_versions('name = "it\'s one"')] in ([2, 1], [1, 2])
    assert client().get_model_version_by_alias("it's one", "champion").version in (2, "2")
