"""Signals, and many processes on one store: in processes of their own, as a user's are."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from conftest import FEW_STEPS, SMALL
from mlflow import MlflowClient
from mlflow.entities import Run


@pytest.fixture(autouse=True)
def _spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRILAB_SPOOL", str(tmp_path / "spool"))


LONG = ["experiment=rl/double_dqn_cartpole", "data.total_env_steps=100000000", "trainer.max_epochs=-1"]


def start(folder: Path, *arguments: str) -> warm.Trilab:
    return warm.Trilab("train", *arguments, cwd=folder)


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.3)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stopped_run_is_killed_and_keeps_what_it_had(
    signum: int, code: int, workdir: Path, runs: Callable[[], list[Run]]
) -> None:
    process = start(workdir, *LONG)
    wait_for(lambda: any("val/return_mean" in run.data.metrics for run in runs()) or process.poll() is not None)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert output.strip().splitlines()[-1] == f"trilab: stopped by {signal.Signals(signum).name}"
    [run] = runs()
    assert run.info.status == "KILLED"
    assert run.info.end_time is not None
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    assert {item.path for item in client.list_artifacts(run.info.run_id, "checkpoints")} >= {"checkpoints/best.ckpt"}


@pytest.mark.slow
def test_a_stopped_sweep_starts_no_further_run(workdir: Path, runs: Callable[[], list[Run]]) -> None:
    process = start(workdir, "-m", "seed=1,2,3", *LONG)
    wait_for(lambda: any("val/return_mean" in run.data.metrics for run in runs()) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    parent, child = sorted(runs(), key=lambda run: "mlflow.parentRunId" in run.data.tags)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert {parent.info.status, child.info.status} == {"KILLED"}


@pytest.mark.slow
def test_a_run_stopped_while_it_starts_leaves_none_running(workdir: Path, runs: Callable[[], list[Run]]) -> None:
    for delay in (0.3, 1.0, 2.0, 3.0, 4.0):
        process = subprocess.Popen(  # a fresh one, which has its packages to import
            [sys.executable, "-m", "trilab", "train", *LONG],
            cwd=workdir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode in (130, -signal.SIGINT), output
    assert {run.info.status for run in runs()} <= {"KILLED"}


@pytest.mark.slow
def test_eight_processes_share_a_fresh_store(tmp_path: Path, fake_data: Path) -> None:
    small = [*FEW_STEPS, *SMALL["recsys"], "experiment=recsys/deepfm_synthetic"]
    processes = [start(tmp_path, *small, f"seed={seed}") for seed in range(8)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, "\n".join(outputs)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "recsys/deepfm_synthetic"]
    found = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in found] == ["FINISHED"] * 8
    assert {run.data.params["seed"] for run in found} == {str(seed) for seed in range(8)}


@pytest.mark.slow
def test_a_run_that_is_killed_at_once_is_ended_by_the_next_command(
    workdir: Path, runs: Callable[[], list[Run]]
) -> None:
    process = start(workdir, *LONG)
    wait_for(lambda: any("val/return_mean" in run.data.metrics for run in runs()) or process.poll() is not None)
    process.kill()
    process.communicate(timeout=60)
    assert [run.info.status for run in runs()] == ["RUNNING"]
    done = warm.run("sync", cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    [run] = runs()
    assert run.info.status == "KILLED"
    assert run.info.run_id in done.stdout
    assert run.info.end_time is not None
    assert list((workdir / "spool").glob("local-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_without_its_server_is_stopped_as_any_other(signum: int, code: int, workdir: Path) -> None:
    spool = workdir / "spool"
    process = start(workdir, *LONG, "tracking.uri=http://127.0.0.1:9", "tracking.wait_s=1")

    wait_for(lambda: any(workdir.glob("outputs/**/best.ckpt")) or process.poll() is not None)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    [folder] = spool.glob("local-*")
    assert '"ended": "KILLED"' in (folder / "run.json").read_text()
    assert '"val/return_mean"' in (folder / "journal.jsonl").read_text()
    assert (folder / "files" / "1" / "best.ckpt").is_file()
