"""Settings, parameters and the logger's buffer."""

import contextlib
import os
import signal
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from trilab.errors import ConfigError
from trilab.signals import Interrupted, interruptible, shielded
from trilab.tracking.batch import BatchLogger
from trilab.tracking.logger import MlflowLogger
from trilab.tracking.parameters import flatten, shortened
from trilab.tracking.run import open_run
from trilab.tracking.settings import Tracking, redacted, store_uri


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "spool"
    monkeypatch.setenv("TRILAB_SPOOL", str(folder))
    return folder


def test_store_uris_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert store_uri("sqlite:///here.db") == f"sqlite:///{tmp_path}/here.db"
    assert store_uri("http://host:5000") == "http://host:5000"
    assert store_uri("postgresql+psycopg2://u:p@host/db") == "postgresql+psycopg2://u:p@host/db"
    assert Tracking("x", uri="sqlite:///here.db").artifact_root == (tmp_path / "mlartifacts").as_uri()
    assert Tracking("x", uri="https://host").artifact_root is None


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("file:///tmp/mlruns", "not a store of MLflow"),
        ("./mlruns", "For a file here: sqlite:///mlruns.db"),
        ("sqlit:///x.db", "Did you mean 'sqlite'?"),
        ("sqlite:////no/such/folder/x.db", "there is no folder /no/such/folder"),
    ],
)
def test_other_stores_are_refused(uri: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        store_uri(uri)
    assert said in str(raised.value)


def test_passwords_are_not_shown() -> None:
    assert redacted("https://me:secret@host/x") == "https://***@host/x"
    with pytest.raises(ConfigError) as raised:
        store_uri("ftp://me:secret@host/x")
    assert "secret" not in str(raised.value)


def test_parameters_are_flat_and_none_is_cut_silently() -> None:
    config = {"a": {"b": 1, "c": [1, {"d": None}]}, "e": "text", "f": None, "g": True}
    assert flatten(config) == {"a.b": "1", "a.c": '[1, {"d": null}]', "e": "text", "f": "null", "g": "true"}
    assert shortened("x" * 6000) == "x" * 6000
    cut = shortened("x" * 6001)
    assert len(cut) == 6000
    assert cut.endswith("…[shortened; whole in config.yaml]")


def _settings(workdir: Path) -> Tracking:
    return Tracking("logger", uri=f"sqlite:///{workdir}/mlflow.db", system_metrics=False)


def test_every_metric_is_in_the_store_at_the_end(workdir: Path) -> None:
    with open_run(_settings(workdir), "run", {}) as run:
        logger = MlflowLogger(run, workdir)
        for step in range(2500):  # more than one request holds
            logger.log_metrics({"train/loss": step / 2}, step=step)
        logger.log_metrics({"val/x": float("nan")}, step=7)
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    history = sorted(client.get_metric_history(run.id, "train/loss"), key=lambda metric: metric.step)
    assert [(metric.step, metric.value) for metric in history] == [(step, step / 2) for step in range(2500)]
    [nan] = client.get_metric_history(run.id, "val/x")
    assert nan.value != nan.value
    assert logger.latest["train/loss"] == 2499 / 2


def test_metrics_wait_no_longer_than_asked(workdir: Path) -> None:
    settings = Tracking("logger", uri=f"sqlite:///{workdir}/mlflow.db", system_metrics=False, flush_s=0.05)
    with open_run(settings, "run", {}) as run:
        MlflowLogger(run, workdir).log_metrics({"a": 1.0}, step=0)
        deadline = time.monotonic() + 5
        while not run.client.get_metric_history(run.id, "a"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_logging_takes_no_time_though_the_store_hangs(workdir: Path) -> None:
    settings = Tracking("logger", uri=f"sqlite:///{workdir}/mlflow.db", system_metrics=False, flush_s=0.01)
    metrics = {f"train/m{k}": k / 3 for k in range(10)}
    with open_run(settings, "run", {}) as run:
        logger = MlflowLogger(run, workdir)
        with contextlib.closing(sqlite3.connect(workdir / "mlflow.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            times = []
            for step in range(1000):
                start = time.perf_counter()
                logger.log_metrics(metrics, step=step)
                times.append(time.perf_counter() - start)
            other.execute("ROLLBACK")
    assert statistics.median(times) < 1e-2  # 20 us on a free core; a call that waited would take seconds


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError("no"), "FAILED"), (KeyboardInterrupt(), "FAILED"), (Interrupted(15), "KILLED")],
)
def test_a_run_ends_with_what_happened(error: BaseException | None, status: str, workdir: Path) -> None:
    seen: BaseException | None = None
    try:
        with open_run(_settings(workdir), "run", {"mine": "1"}) as run:
            if error is not None:
                raise error
    except BaseException as raised:
        seen = raised
    assert seen is error
    found = MlflowClient(f"sqlite:///{workdir}/mlflow.db").get_run(run.id)
    assert found.info.status == status
    assert found.data.tags["mine"] == "1"


def test_a_signal_waits_for_the_end_of_a_write() -> None:
    done: list[str] = []

    def write() -> None:
        with shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("written")
        done.append("not reached")

    with pytest.raises(Interrupted) as raised, interruptible():
        write()
    assert done == ["written"]
    assert raised.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_counts_though_its_exception_was_replaced_or_swallowed(workdir: Path) -> None:
    def replaced() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise RuntimeError("half-done")  # what a library's clean-up does when it is cut in two

    def swallowed() -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)

    def body(stop: Callable[[], None]) -> None:
        with open_run(_settings(workdir), "run", {}) as run:
            stop()
            MlflowLogger(run, workdir).log_metrics({"a": 1.0}, step=0)

    for stop in (replaced, swallowed):
        with pytest.raises(Interrupted) as raised, interruptible():
            body(stop)
        assert raised.value.exit_code == 143
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "logger"]
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["KILLED", "KILLED"]


def test_a_short_run_still_has_system_metrics(workdir: Path) -> None:
    settings = Tracking("system", uri=f"sqlite:///{workdir}/mlflow.db", system_metrics_interval_s=60)
    with open_run(settings, "run", {}) as run:
        time.sleep(0.2)
    metrics = MlflowClient(f"sqlite:///{workdir}/mlflow.db").get_run(run.id).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0


def _points(run_id: str, name: str, workdir: Path) -> list[tuple[int, float]]:
    points = MlflowClient(f"sqlite:///{workdir}/mlflow.db").get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in points)


def test_a_metric_of_each_member_goes_to_its_run_and_the_mean_to_the_parent(workdir: Path) -> None:
    with open_run(_settings(workdir), "parent", {}, [("first", {"mine": "1"}), ("second", {})]) as run:
        ids = [member.id for member in run.members]
        logger = BatchLogger(run, workdir)
        logger.log_metrics({"val/x": [1.0, 4.0], "perf/y": 7.0}, step=10)
        logger.log_metrics({"val/x": [None, 2.0]}, step=20)
        logger.log_metrics({"val/x": [None, None]}, step=30)
    assert [part.latest for part in logger.all[1:]] == [{"val/x": 1.0}, {"val/x": 2.0}]
    assert _points(run.id, "val/x", workdir) == [(10, 2.5), (20, 2.0)]
    assert _points(run.id, "val/x_std", workdir) == [(10, pytest.approx(statistics.stdev([1.0, 4.0])))]
    assert _points(run.id, "perf/y", workdir) == [(10, 7.0)]
    assert [_points(member, "val/x", workdir) for member in ids] == [[(10, 1.0)], [(10, 4.0), (20, 2.0)]]
    assert _points(ids[0], "perf/y", workdir) == []
    first = MlflowClient(f"sqlite:///{workdir}/mlflow.db").get_run(ids[0])
    assert first.data.tags["mine"] == "1"
    assert first.data.tags["mlflow.parentRunId"] == first.data.tags["trilab.seed_batch"] == run.id
