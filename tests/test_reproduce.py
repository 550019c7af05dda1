"""A run that is run again from what its store holds."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from test_resume import TRAIN, client, points
from test_train import artifacts, small, trilab

from trilab.models.vision.classifier import Classifier
from trilab.reports.reproduction import Comparison, Metric, Spread, metric_of
from trilab.tracking.differences import versions

Runs = Callable[[], list[Run]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment", ["vision/mnist_cnn", "rl/double_dqn_cartpole", "recsys/deepfm_synthetic", "rl/q_learning_taxi"]
)
def test_a_run_of_each_field_is_equal_to_the_last_bit(experiment: str, runs: Runs, capsys):
    assert trilab("train", *small(experiment), "seed=7", "trainer.max_epochs=2", "paths.outputs=first") == 0
    [first] = runs()
    capsys.readouterr()
    assert trilab("reproduce", first.info.run_id) == 0
    said = capsys.readouterr().out
    assert "The code, the packages and the machine are those of the run." in said
    assert "equal to the last bit" in said
    second = runs()[-1]
    assert second.data.tags["trilab.reproduces"] == first.info.run_id
    assert second.data.tags["trilab.reproduced"] == "equal"
    assert second.data.tags["trilab.config_hash"] == first.data.tags["trilab.config_hash"]
    assert second.data.params["seed"] == "7"
    assert points(second) == points(first)
    assert "reproduction.json" in artifacts(second)


@pytest.mark.slow
def test_agents_trained_as_one_batch_are_compared_each(runs: Runs, capsys):
    train = [*small("rl/double_dqn_cartpole"), "trainer.seeds=[3,5]"]
    assert trilab("train", *train, "paths.outputs=first") == 0
    parent = next(run for run in runs() if "mlflow.parentRunId" not in run.data.tags)
    assert trilab("reproduce", parent.info.run_id) == 0
    assert len(runs()) == 6
    assert "equal to the last bit" in capsys.readouterr().out


@pytest.mark.exhaustive
@pytest.mark.slow
def test_other_numbers_are_told_of_and_held_against_other_seeds(runs: Runs, monkeypatch, capsys):
    one_epoch = [*TRAIN, "trainer.max_epochs=1"]
    for seed in (1, 2, 3):
        assert trilab("train", *one_epoch, f"seed={seed}", f"paths.outputs=seed{seed}") == 0
    first = runs()[0].info.run_id
    capsys.readouterr()
    assert trilab("reproduce", first, "accelerator.matmul_precision=highest", "accelerator.memory_format=contiguous",
                  "data.eval_batch_size=63", "paths.outputs=again") in (0, 1)  # fmt: skip
    said = capsys.readouterr().out
    assert "configuration (hash)" in said
    assert "memory format" in said

    real = Classifier._report

    def shifted(self: Classifier, split: str) -> None:
        self._sums[1] += 1e6 * self._sums[2]
        real(self, split)

    monkeypatch.setattr(Classifier, "_report", shifted)
    assert trilab("reproduce", first, "paths.outputs=wrong") == 1
    said = capsys.readouterr().out
    assert "outside two standard deviations of the mean" in said
    assert "over 3 seeds" in said
    assert runs()[-1].data.tags["trilab.reproduced"] == "differs"


@pytest.mark.slow
def test_what_cannot_be_run_again_is_said_in_one_line(runs: Runs, workdir: Path, monkeypatch, capsys):
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", fail)
        assert trilab("train", *TRAIN) == 1
    assert trilab("train", *TRAIN, "trainer.max_epochs=1", "paths.outputs=fine") == 0
    failed, finished = (run.info.run_id for run in runs())
    assert trilab("evaluate", f"run={finished}") == 0
    tested = runs()[-1].info.run_id
    foreign = client().create_run("0").info.run_id
    bare = client().create_run("0", tags={f"trilab.{name}": "x" for name in ("experiment", "model", "data")})
    capsys.readouterr()
    for arguments, code, message in (
        ([], 2, "reproduce needs one run: trilab reproduce RUN_ID."),
        ([finished, failed], 2, "reproduce needs one run"),
        (["0" * 32], 2, "no such run"),
        ([foreign], 1, "was not made by trilab train"),
        ([bare.info.run_id], 1, "has no configuration in its artifacts (config.yaml)"),
        ([failed], 2, f"is FAILED: only of a finished run is it known what it comes to. trilab resume {failed}"),
        ([tested], 2, f"trilab evaluate run={finished}"),
        ([finished, "optimizer.lrr=3"], 2, "optimizer.lrr: no such key. Did you mean 'lr'?"),
        ([finished, "seed=1,2"], 2, "one value at a time"),
    ):
        before = len(runs())
        assert trilab("reproduce", *arguments) == code
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1, error
        assert len(runs()) == before


def test_histories_are_compared_by_step():
    nan = math.nan
    assert metric_of("loss", {0: 1.0, 5: nan}, {0: 1.0, 5: nan}).different == 0
    assert metric_of("loss", {0: 1.0, 5: 2.0}, {0: 1.0, 5: 2.5}) == Metric("loss", 2, 1, 0.5, 2.0, 2.5)
    assert metric_of("loss", {0: 1.0, 5: 2.0}, {0: 1.0}) == Metric("loss", 2, 1, 0.0, 2.0, 1.0)
    assert metric_of("loss", {}, {3: 1.0}) == Metric("loss", 1, 1, None, None, 1.0)
    nextafter = math.nextafter(1.0, 2.0)
    assert metric_of("loss", {0: 1.0}, {0: nextafter}).different == 1
    assert math.isnan(metric_of("loss", {0: 1.0, 1: nan}, {0: 3.0, 1: 0.0}).largest or 0.0)


def test_the_verdict_is_by_the_goal():
    equal = Metric("test/auc", 1, 0, 0.0, 0.7, 0.7)
    other = Metric("test/auc", 1, 1, 0.02, 0.7, 0.72)
    # Three seeds with 0.69, 0.70, 0.71: mean 0.70, standard deviation 0.01 (n - 1).
    assert Comparison("test/auc", [equal], None).verdict == "equal"
    assert Comparison("test/auc", [other], None).verdict == "differs"
    assert Comparison("test/auc", [other], Spread(2, 0.70, 0.01)).verdict == "differs"
    assert Comparison("test/auc", [other], Spread(3, 0.70, 0.0101)).verdict == "within the spread"
    assert Comparison("test/auc", [other], Spread(3, 0.70, 0.0099)).verdict == "differs"
    assert Comparison("test/auc", [], None).verdict == "differs"


def test_versions_are_read_back():
    text = "# python 3.12.1\n# Linux-6\nNumPy==2.1.0\ntorch==2.11.0+cpu\n"
    assert versions(text) == {"python": "3.12.1", "numpy": "2.1.0", "torch": "2.11.0+cpu"}
    assert versions("") == {}


def test_a_store_of_another_tool_has_no_such_run(workdir: Path, capsys):
    MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    assert trilab("reproduce", "not-an-id") == 2
    assert capsys.readouterr().err.count("\n") == 1
