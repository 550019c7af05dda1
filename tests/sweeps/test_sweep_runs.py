"""Sweeps through the command line: nesting, going on by name, what is left out, what fails."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from conftest import FEW_STEPS, SMALL
from mlflow import MlflowClient
from mlflow.entities import Run
from test_lifecycle import LONG, start, wait_for
from test_train import trilab

from trilab.tracking.process import process_tags

Runs = Callable[[], list[Run]]
RECSYS = [
    "experiment=recsys/deepfm_synthetic",
    *FEW_STEPS,
    *SMALL["recsys"],
    "tracking.system_metrics=false",
    "accelerator.threads=1",
    "sweep.compare=false",
]


def family(found: list[Run]) -> tuple[Run, list[Run]]:
    """The sweep's own run, and its children in the order of their folders."""
    [parent] = [run for run in found if run.data.tags.get("trilab.kind") == "sweep"]
    children = [run for run in found if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    assert {run.data.tags["trilab.sweep"] for run in children} <= {parent.data.tags["trilab.sweep"]}
    return parent, sorted(children, key=lambda run: int(Path(run.data.tags["trilab.output_dir"]).name))


def folders(workdir: Path, name: str) -> list[str]:
    """Of its runs; the comparison has one of its own."""
    found = sorted(entry.name for entry in (workdir / "outputs" / "sweeps" / name).iterdir())
    return [name for name in found if name != "compare"]


def history(run: Run, metric: str) -> list[float]:
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    return [point.value for point in client.get_metric_history(run.info.run_id, metric)]


def test_a_sweep_is_a_run_with_its_runs_nested_under_it(
    runs: Runs, workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    swept = ["optimizer.lr=1e-3,1e-1", "sweep.name=lr", "sweep.compare=true"]
    assert trilab("train", "-m", *RECSYS, *swept, "trainer.max_epochs=2") == 0
    parent, children = family(runs())
    assert [run.info.run_name for run in children] == ["optimizer.lr=0.001", "optimizer.lr=0.1"]
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    assert folders(workdir, "lr") == ["0", "1"]
    tags = parent.data.tags
    assert (tags["swept.optimizer.lr"], tags["trilab.sweep_runs"]) == ("0.001, 0.1", "2")
    assert tags["trilab.objectives"] == "max val/auc"
    # The best by the best of its validations, its test beside it.
    reached = {run.info.run_name: max(history(run, "val/auc")) for run in children}
    winner = max(reached, key=lambda name: reached[name])
    [chosen] = [run for run in children if run.info.run_name == winner]
    assert (tags["trilab.best"], tags["trilab.best_run"]) == (winner, chosen.info.run_id)
    assert parent.data.metrics["best/val/auc"] == pytest.approx(reached[winner])
    assert parent.data.metrics["best/test/auc"] == pytest.approx(chosen.data.metrics["test/auc"])
    shown = capfd.readouterr()
    assert f"* best: {winner}, val/auc {reached[winner]:.5g}, test/auc" in shown.out
    assert "2 of 2 runs finished, 0 failed" in shown.out
    # On a pipe: a line for each run, and nothing of the runs' own.
    lines = shown.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["[1/2] optimizer.lr=0.001", "[2/2] optimizer.lr=0.1"]
    assert re.search(r"s · 1 left, best optimizer\.lr=0\.001 \(val/auc .*\), about .* left \(\d\d:\d\d\)$", lines[0])
    assert not set("\x1b\r") & set(shown.err + shown.out)
    assert "HYDRA" not in shown.err + shown.out
    # The comparison that it ends with.
    client, page = MlflowClient(f"sqlite:///{workdir}/mlflow.db"), workdir / "outputs/sweeps/lr/compare/compare.html"
    assert f"compared: {page.relative_to(workdir)}" in shown.out
    assert page.is_file()
    assert "compare/compare.html" in {item.path for item in client.list_artifacts(parent.info.run_id, "compare")}
    assert "too few seeds to tell" in client.get_run(parent.info.run_id).data.tags["mlflow.note.content"]


def test_a_sweep_of_one_finished_run_or_without_comparison_is_not_compared(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trilab("train", "-m", *RECSYS, "seed=1", "sweep.name=one", "sweep.compare=true") == 0
    assert trilab("train", "-m", *RECSYS, "seed=1,2", "sweep.name=quiet") == 0
    assert "compared" not in capfd.readouterr().out
    assert not list((workdir / "outputs" / "sweeps").glob("*/compare"))


def test_under_its_name_a_sweep_goes_on_with_what_is_new(
    runs: Runs, workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trilab("train", "-m", *RECSYS, "seed=1,2", "sweep.name=s") == 0
    _, before = family(runs())
    kept = {path: path.read_bytes() for path in (workdir / "outputs" / "sweeps" / "s").rglob("*") if path.is_file()}
    capfd.readouterr()
    assert trilab("train", "-m", *RECSYS, "seed=1,2,3", "optimizer.lr=0.001,0.01", "sweep.name=s") == 0
    parent, children = family(runs())
    lr = next(run.data.params["optimizer.lr"] for run in before)
    known = 2 if float(lr) in (0.001, 0.01) else 0
    assert len(children) == 2 + 6 - known
    assert len({run.data.tags["trilab.config_hash"] for run in children}) == len(children)
    assert [run.info.run_id for run in children[:2]] == [run.info.run_id for run in before]
    assert children[-1].info.run_name == "seed=3 optimizer.lr=0.01"
    assert parent.data.tags["trilab.sweep_runs"] == str(len(children))
    assert {"swept.seed", "swept.optimizer.lr"} <= set(parent.data.tags)
    assert kept == {path: path.read_bytes() for path in kept}
    assert f"{len(children)} of {len(children)} runs finished" in capfd.readouterr().out


def test_a_finished_sweep_runs_nothing_again(runs: Runs, workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert trilab("train", "-m", *RECSYS, "seed=1,2,1", "sweep.name=s") == 0
    _, children = family(runs())
    assert len(children) == 2
    assert folders(workdir, "s") == ["0", "1"]
    assert "2 of 2 runs finished, 2 of them before, 0 failed" in capfd.readouterr().out


def test_what_is_known_of_finished_runs_does_not_need_their_folder(
    runs: Runs, workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trilab("train", "-m", *RECSYS, "seed=1,2", "sweep.name=s") == 0
    [best] = [line for line in capfd.readouterr().out.splitlines() if line.startswith("* best")]
    (workdir / "outputs").rename(workdir / "elsewhere")
    assert trilab("train", "-m", *RECSYS, "seed=1,2", "sweep.name=s") == 0
    shown = capfd.readouterr().out
    assert best in shown
    assert "2 of 2 runs finished, 2 of them before, 0 failed" in shown


def test_a_run_that_failed_is_made_again_in_a_folder_of_its_own(
    runs: Runs, workdir: Path, fake_data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = ["experiment=vision/mnist_cnn", *FEW_STEPS, *SMALL["vision"], "tracking.system_metrics=false"]
    assert trilab("train", "-m", *small, "paths.data=nowhere", "seed=1,2", "sweep.name=s") == 1
    shown = capfd.readouterr()
    assert "0 of 2 runs finished, 2 failed" in shown.out
    assert len([line for line in shown.err.splitlines() if line.startswith("[")]) == 2
    assert shown.err.splitlines()[-1].startswith("trilab: 2 of 2 runs failed: seed=1: mnist:")
    parent, children = family(runs())
    assert {run.info.status for run in [parent, *children]} == {"FAILED"}
    # Where data are is not part of what is computed.
    assert trilab("train", "-m", *small, f"paths.data={fake_data}", "seed=1,2", "sweep.name=s") == 0
    parent, children = family(runs())
    assert [run.info.status for run in children] == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    assert (parent.info.status, parent.data.tags["trilab.sweep_runs"]) == ("FINISHED", "2")
    assert folders(workdir, "s") == ["0", "1", "2", "3"]
    assert "2 of 2 runs finished, 0 failed" in capfd.readouterr().out


def test_several_experiments_are_swept_in_one_of_their_own(runs: Runs, workdir: Path) -> None:
    assert (
        trilab("train", "-m", *RECSYS[1:], "experiment=recsys/deepfm_synthetic,mine", "--config-dir", _mine(workdir))
        == 0
    )
    parent, children = family(runs())
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    assert client.get_experiment(parent.info.experiment_id).name == "sweeps"
    assert {run.info.experiment_id for run in children} == {parent.info.experiment_id}
    assert [run.info.run_name for run in children] == [
        "experiment=recsys/deepfm_synthetic",
        "experiment=mine",
    ]


def _mine(workdir: Path) -> str:
    folder = workdir / "mine" / "experiment"
    folder.mkdir(parents=True)
    header = "# @package _global_\n# Mine\n"
    (folder / "mine.yaml").write_text(f"{header}defaults:\n  - recsys/deepfm_synthetic\n  - _self_\nseed: 7\n")
    return str(workdir / "mine")


def _store(workdir: Path) -> tuple[MlflowClient, str]:
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    return client, client.create_experiment("recsys/deepfm_synthetic")


def test_the_name_of_a_running_sweep_is_refused(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    client, experiment = _store(workdir)
    tags = {"trilab.kind": "sweep", "trilab.sweep": "s"}
    client.create_run(experiment, tags={**tags, **process_tags()})
    assert trilab("train", "-m", *RECSYS, "seed=1,2", "sweep.name=s") == 2
    [line] = capfd.readouterr().err.splitlines()
    assert f"sweep.name=s: that sweep is running, as process {os.getpid()}" in line


def test_a_sweep_whose_run_still_trains_is_refused(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    client, experiment = _store(workdir)
    parent = client.create_run(experiment, tags={"trilab.kind": "sweep", "trilab.sweep": "s"})
    client.set_terminated(parent.info.run_id, "KILLED")
    nested = {"mlflow.parentRunId": parent.info.run_id, "trilab.config_hash": "x", **process_tags()}
    client.create_run(experiment, run_name="seed=1", tags=nested)
    assert trilab("train", "-m", *RECSYS, "seed=1,2", "sweep.name=s") == 2
    assert "sweep.name=s: its run seed=1 is still running" in capfd.readouterr().err


def test_a_name_of_another_experiments_sweep_is_refused(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    client, _ = _store(workdir)
    run = client.create_run("0", tags={"trilab.kind": "sweep", "trilab.sweep": "s"})
    client.set_terminated(run.info.run_id)
    assert trilab("train", "-m", *RECSYS, "seed=1,2", "sweep.name=s") == 2
    assert "are in the experiment Default, and these go to recsys/deepfm_synthetic" in capfd.readouterr().err


def test_a_sweep_needs_no_store(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    away = ["tracking.uri=http://127.0.0.1:9", "tracking.wait_s=0", "sweep.name=s"]
    assert trilab("train", "-m", *RECSYS, "seed=1,2", *away) == 0
    assert "2 of 2 runs finished, 0 failed" in capfd.readouterr().out
    births = [json.loads(file.read_text()) for file in (workdir / "spool").glob("local-*/run.json")]
    [parent] = [birth for birth in births if birth["tags"].get("trilab.kind") == "sweep"]
    children = [birth for birth in births if birth is not parent]
    assert {birth["tags"]["mlflow.parentRunId"] for birth in children} == {parent["key"]}
    assert {birth["ended"] for birth in births} == {"FINISHED"}
    assert trilab("train", "-m", *RECSYS, "seed=1,2,3", *away) == 0
    assert "3 of 3 runs finished, 2 of them before, 0 failed" in capfd.readouterr().out
    assert folders(workdir, "s") == ["0", "1", "2"]


def test_runs_may_be_chosen_by_several_metrics(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    chosen = "sweep.metric=[val/auc,val/logloss]"
    assert trilab("train", "-m", *RECSYS, "optimizer.lr=1e-3,1e-9", chosen) == 0
    shown = capfd.readouterr().out
    assert "val/auc" in shown
    assert "val/logloss" in shown
    parent, children = family(runs())
    assert parent.data.tags["trilab.objectives"] == "max val/auc, min val/logloss"
    auc, loss = (
        {run.info.run_name: run.data.metrics[f"val/{name}"] for run in children} for name in ("auc", "logloss")
    )
    best = set(parent.data.tags["trilab.best"].split("; "))
    for name in auc:
        beaten = any(auc[other] > auc[name] and loss[other] < loss[name] for other in auc)
        assert (name in best) == (not beaten)


def test_a_single_run_of_a_sweep_tells_of_itself(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    assert trilab("train", "-m", *RECSYS, "seed=4") == 0
    shown = capfd.readouterr()
    assert "epoch 1/1" in shown.err
    assert "memory, MiB" in shown.err
    assert not [line for line in shown.err.splitlines() if line.startswith("[")]
    _, [child] = family(runs())
    assert child.info.status == "FINISHED"


def test_random_runs_are_drawn_by_their_seed_and_gone_on_with(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    search = ["hydra/sweeper=random", "optimizer.lr=tag(log, interval(1e-4,1e-1))", "sweep.name=r"]
    assert trilab("train", "-m", *RECSYS, *search, "hydra.sweeper.n_trials=2") == 0
    _, first = family(runs())
    assert trilab("train", "-m", *RECSYS, *search, "hydra.sweeper.n_trials=3") == 0
    parent, children = family(runs())
    assert [run.info.run_id for run in children[:2]] == [run.info.run_id for run in first]
    rates = [float(run.data.params["optimizer.lr"]) for run in children]
    assert len(set(rates)) == 3
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert parent.data.tags["swept.optimizer.lr"] == "tag(log, interval(0.0001,0.1))"
    assert children[0].info.run_name == f"optimizer.lr={rates[0]:.4g}"
    capfd.readouterr()
    few = ["hydra/sweeper=random", "seed=1,2", "hydra.sweeper.n_trials=9"]
    assert trilab("train", "-m", *RECSYS, *few) == 0
    assert "hydra.sweeper.n_trials=9: there are 2 combinations, and all of them are run." in capfd.readouterr().err


@pytest.mark.slow
def test_a_stopped_sweep_is_killed_with_its_run_and_can_be_gone_on_with(workdir: Path, runs: Runs) -> None:
    process = start(workdir, "-m", "seed=1,2", "sweep.name=s", *LONG)
    wait_for(lambda: any("val/return_mean" in run.data.metrics for run in runs()) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    parent, [child] = family(runs())
    assert {parent.info.status, child.info.status} == {"KILLED"}
    assert not list((workdir / "outputs" / "sweeps" / "s").rglob("outcome.json"))
    done = warm.run("sweep", "status", "s", cwd=workdir)
    assert done.returncode == 0, done.stderr
    assert re.search(r"stopped +1 +seed=1", done.stdout)
    assert re.search(r"to do +2", done.stdout)


@pytest.mark.slow
def test_on_a_terminal_one_line_is_renewed_below_those_that_stay(workdir: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = warm.Trilab(
        "train", "-m", "seed=range(1,7)", *RECSYS, cwd=workdir, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        seen += part
    assert process.wait(timeout=60) == 0
    text = seen.decode()
    assert "\x1b[2K" in text  # a line is cleared and written anew
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()
    for seed in range(1, 7):
        assert len([line for line in plain if line.startswith(f"[{seed}/6] seed={seed}: val/auc")]) == 1
    # Of runs as short as these several may end between two looks.
    assert any(re.match(r"\[[1-5]/6] [1-5] left, best seed=[1-5]", line) for line in plain)
    assert not [line for line in plain if "memory, MiB" in line or line.startswith("epoch 1")]
