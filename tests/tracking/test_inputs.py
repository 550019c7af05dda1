"""Datasets of runs: what is said of them, that they are there once, and that an outage keeps none back."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import FEW_STEPS, small
from mlflow import MlflowClient
from mlflow.entities import Run
from patience import send_all
from test_train import trilab

from trilab.data.contents import Contents, Part, content_key
from trilab.tracking.inputs import inputs_of, log_inputs
from trilab.tracking.run import open_run
from trilab.tracking.settings import Tracking

Runs = Callable[[], list[Run]]
TABLE = Contents({"train": Part({"rows": 5}, "ab" * 32), "test": Part({"rows": 2}, "cd" * 32)}, (("user", "int64"),))


class Data:
    """A data module that says what it holds."""

    def contents(self) -> Contents:
        return TABLE


class Broken:
    """One that cannot."""

    def contents(self) -> Contents:
        raise ValueError("no")


def test_a_key_follows_the_content_and_not_the_tensor() -> None:
    rows = torch.arange(5000).reshape(-1, 2)
    assert content_key([rows]) == content_key([rows.clone()])
    changed = rows.clone()
    changed[0, 0] = 7
    keys = {content_key(tensors) for tensors in ([rows], [changed], [rows.float()], [rows[:-1]], [rows, rows])}
    assert len(keys) == 5


def test_a_dataset_says_where_it_is_from_and_what_it_is() -> None:
    first, second = inputs_of("recsys/csv", {"_target_": "a.B", "train_path": ["x.csv", "y.csv"]}, TABLE)
    assert (first["name"], first["digest"], first["context"]) == ("recsys/csv", "abababab", "training")
    assert (second["digest"], second["context"]) == ("cdcdcdcd", "test")
    assert json.loads(first["source"])["uri"] == f"{Path.cwd()}/x.csv, {Path.cwd()}/y.csv"
    assert json.loads(first["schema"]) == {"mlflow_colspec": [{"type": "long", "name": "user", "required": True}]}
    assert json.loads(first["profile"]) == {"rows": 5}
    images = Contents({"train": Part({"images": 3}, "ef" * 32)}, features=("float32", (1, 28, 28)))
    [record] = inputs_of("vision/fake", {"_target_": "a.Fake"}, images)
    assert record["source_type"] == "code"
    features = json.loads(json.loads(record["schema"])["mlflow_tensorspec"]["features"])
    assert features[0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 1, 28, 28]}


def _settings(workdir: Path, wait_s: float = 60.0) -> Tracking:
    return Tracking("t", uri=f"sqlite:///{workdir}/mlflow.db", system_metrics=False, wait_s=wait_s)


def _inputs(workdir: Path, name: str = "r") -> list[tuple[str, str]]:
    """Digest and context of each dataset of the run of that name."""
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    [run] = client.search_runs(["1"], f"attributes.run_name = '{name}'")
    return sorted((one.dataset.digest, one.tags[0].value) for one in run.inputs.dataset_inputs)


def test_datasets_are_there_once_whatever_is_sent_twice(workdir: Path) -> None:
    for name in ("r", "second"):  # of the same experiment, with the same data
        with open_run(_settings(workdir), name, {}) as run:
            log_inputs(run.outbox, "recsys/x", {"_target_": "a.B"}, Data())
            assert run.flush()
            log_inputs(run.outbox, "recsys/x", {"_target_": "a.B"}, Data())
        assert _inputs(workdir, name) == [("abababab", "training"), ("cdcdcdcd", "test")]


def test_datasets_survive_that_the_store_is_away(workdir: Path) -> None:
    with sqlite3.connect(workdir / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with open_run(_settings(workdir, wait_s=0), "r", {}) as run:
            log_inputs(run.outbox, "recsys/x", {"_target_": "a.B"}, Data())
        assert run.unsent
        other.execute("ROLLBACK")
    send_all()
    assert _inputs(workdir) == [("abababab", "training"), ("cdcdcdcd", "test")]


def test_data_that_cannot_be_described_ends_no_run(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with open_run(_settings(workdir), "r", {}) as run:
        log_inputs(run.outbox, "mine", {}, object())  # of a user's own, which says nothing
        log_inputs(run.outbox, "mine", {}, Broken())
    found = MlflowClient(f"sqlite:///{workdir}/mlflow.db").get_run(run.id)
    assert found.info.status == "FINISHED"
    assert "ValueError: no" in found.data.tags["trilab.inputs_error"]
    assert capfd.readouterr().err.count("The run goes on") == 1


EXPECTED = {
    "vision/mnist_cnn": tuple({"images": count, "classes": 10} for count in (200, 5000, 100)),
    "recsys/deepfm_synthetic": ({"rows": 2000}, {"rows": 500}, {"rows": 500}),
}


@pytest.mark.parametrize("experiment", EXPECTED)
def test_a_run_has_a_dataset_for_each_part(experiment: str, runs: Runs) -> None:
    assert trilab("train", f"experiment={experiment}", *FEW_STEPS, *small(experiment), "tracking.model=false") == 0
    [run] = runs()
    found = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
    assert {one.name for one in found.values()} == {run.data.tags["trilab.data"]}
    assert len({one.digest for one in found.values()}) == 3
    profiles = [json.loads(found[context].profile) for context in ("training", "validation", "test")]
    assert profiles == list(EXPECTED[experiment])


def test_an_environment_is_a_dataset_too(runs: Runs) -> None:
    import gymnasium

    overrides = [*FEW_STEPS, *small("rl/dqn_cartpole"), "tracking.model=false", "callbacks.video.episodes=0"]
    assert trilab("train", "experiment=rl/dqn_cartpole", *overrides) == 0
    [run] = runs()
    found = {one.tags[0].value: json.loads(one.dataset.profile) for one in run.inputs.dataset_inputs}
    assert found["training"]["environment"] == "CartPole-v1"
    assert found["training"]["package"] == f"gymnasium {gymnasium.__version__}"
    assert found["training"]["env_steps"] == 500000
    assert found["test"]["episodes"] == 2


def test_people_ranked_and_pairs_trained_on_are_counted(runs: Runs) -> None:
    experiment = "recsys/mf_movielens_100k"
    assert trilab("train", f"experiment={experiment}", *FEW_STEPS, *small(experiment), "tracking.model=false") == 0
    [run] = runs()
    found = {one.tags[0].value: json.loads(one.dataset.profile) for one in run.inputs.dataset_inputs}
    # Three users with four ratings each, of whom one is held out for validation and one for the test.
    assert found["training"] == {"interactions": 6, "users": 943, "items": 1682}
    assert found["test"] == found["validation"] == {"users": 3, "candidates": 100}
    columns = json.loads(run.inputs.dataset_inputs[0].dataset.schema)["mlflow_colspec"]
    assert [column["name"] for column in columns][:2] == ["user", "item"]
    assert columns[-1]["name"] == "label"
