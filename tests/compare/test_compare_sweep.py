"""The comparison at the end of a sweep, and a real one."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FEW_STEPS, SMALL
from made_up import Store
from mlflow import MlflowClient
from mlflow.entities import Run

from trilab.cli import main
from trilab.compare.sweep import compare_sweep
from trilab.tracking.spool import Birth


def test_a_sweep_ends_with_its_comparison(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(workdir)
    sweep = store.sweep("precisions", {"precision": "fp32, bf16-mixed"}, status="RUNNING")
    store.precisions(sweep)
    compare_sweep(store.client, sweep, workdir / "here")
    assert "bf16-mixed is 1.25x faster" in capsys.readouterr().out
    assert (workdir / "here" / "compare.html").is_file()
    assert "compare/compare.html" in {item.path for item in store.client.list_artifacts(sweep, "compare")}
    found = store.client.get_run(sweep)
    assert found.info.status == "RUNNING"
    assert "what the sweep says" in found.data.tags["mlflow.note.content"]


@pytest.mark.parametrize("broken", ["no runs", "different tasks", "no such run", "a file in its way"])
def test_nothing_that_fails_there_ends_the_sweep(
    broken: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(workdir)
    sweep = store.sweep("mine", {"optimizer.lr": "1, 2"})
    under = {"trilab.sweep": "mine", "mlflow.parentRunId": sweep}
    if broken == "different tasks":
        store.run(0, 0.9, tags=under)
    if broken != "no runs":
        store.run(0, 0.9, tags={**under, "trilab.data": "vision/cifar10"})
    (workdir / "folder").write_text("") if broken == "a file in its way" else None
    compare_sweep(store.client, "f" * 32 if broken == "no such run" else sweep, workdir / "folder")
    said = capsys.readouterr().err
    assert said.startswith("trilab: ")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_real_sweep(workdir: Path, runs: Callable[[], list[Run]], capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["experiment=vision/mnist_cnn", "data=vision/fake", *SMALL["vision"], *FEW_STEPS]
    overrides += ["accelerator=cpu", "accelerator.threads=1", "sweep.name=real", "trainer.max_epochs=2"]
    overrides = [text for text in overrides if text not in ("data.download=false", "trainer.max_epochs=1")]
    with pytest.raises(SystemExit) as ended:
        main(["train", "-m", *overrides, "precision=fp32,bf16-mixed", "seed=1,2,3"])
    assert not ended.value.code
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["compare", "real", "--format", "csv"])
    assert not ended.value.code
    fp32, bf16 = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (fp32["precision"], bf16["precision"], bf16["precision_effective"]) == ("fp32", "bf16-mixed", "bf16-mixed")
    assert (fp32["n"], bf16["n"], bf16["pairs"], bf16["baseline"]) == ("3", "3", "3", "fp32")
    # Against the store itself.
    tested = [run for run in runs() if run.data.params.get("precision.name") == "fp32"]
    mean = sum(run.data.metrics["test/accuracy"] for run in tested) / 3
    assert float(fp32["mean"]) == pytest.approx(mean)
    assert float(fp32["fit_s"]) == pytest.approx(sorted(run.data.metrics["perf/fit_s"] for run in tested)[1])
    [parent] = [run for run in runs() if run.data.tags.get("trilab.kind") == "sweep"]
    client = MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")
    logged = {item.path for item in client.list_artifacts(parent.info.run_id, "compare")}
    assert {"compare/compare.html", "compare/curves_over_steps.png", "compare/scores.png"} <= logged


def test_a_sweep_that_the_store_does_not_have_yet_is_left_alone(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    birth = Birth.new("sqlite:///mlflow.db", "made/up", None, "sweep", {})
    assert birth.run_id is None
    compare_sweep(Store(workdir).client, birth.key, workdir / "here")
    shown = capsys.readouterr()
    assert shown.out + shown.err == ""
    assert not (workdir / "here").exists()
