"""The store goes away, is locked or full: nothing is lost, and nothing is there twice."""

import errno
import multiprocessing
import os
import sqlite3
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm
from mlflow import MlflowClient
from mlflow_servers import RealServer, Server, served

from trilab.commands import sync
from trilab.errors import UserError
from trilab.tracking.failures import Unreachable
from trilab.tracking.run import Run, open_run
from trilab.tracking.settings import Tracking


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "spool"
    monkeypatch.setenv("TRILAB_SPOOL", str(folder))
    return folder


@pytest.fixture
def server(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    yield from served(workdir, monkeypatch)


@pytest.fixture
def real_server(workdir: Path) -> Iterator[RealServer]:
    made = RealServer(workdir)
    made.start()
    yield made
    made.stop()


def settings(uri: str, wait_s: float = 0.2, flush_s: float = 0.02, offline: str = "spool") -> Tracking:
    return Tracking("t", uri=uri, system_metrics=False, flush_s=flush_s, wait_s=wait_s, offline=offline)  # type: ignore[arg-type]


def log(run: Run, steps: range) -> None:
    for step in steps:
        run.outbox.metrics({"a": step / 7, "b": -float(step)}, step)


def assert_whole(database: str, run_id: str, steps: int) -> None:
    """Both metrics have each step once, to the last bit."""
    client = MlflowClient(database)
    for name, value in (("a", lambda step: step / 7), ("b", lambda step: -float(step))):
        points = sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))
        assert points == [(step, value(step)) for step in range(steps)]
    assert client.get_run(run_id).data.metrics["a"] == (steps - 1) / 7


def the_run(database: str, name: str = "r") -> tuple[str, str, dict[str, str]]:
    """Id, status and tags of the only run of that name."""
    client = MlflowClient(database)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    [run] = [run for run in found if run.info.run_name == name]
    return run.info.run_id, run.info.status, run.data.tags


def test_a_server_that_goes_away_in_the_middle_misses_nothing(server: Server, spool: Path) -> None:
    with open_run(settings(server.uri, wait_s=5), "r", {}) as run:
        log(run, range(300))
        assert run.flush()
        server.stop()
        log(run, range(300, 900))
        time.sleep(0.2)  # it is noticed
        server.start()
        log(run, range(900, 1000))
    run_id, status, _ = the_run(server.database)
    assert status == "FINISHED"
    assert not run.unsent
    assert_whole(server.database, run_id, 1000)
    assert list(spool.iterdir()) == []


def test_a_server_that_is_away_at_the_end_gets_the_rest_from_sync(
    server: Server, spool: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs"
    (outputs / "checkpoints").mkdir(parents=True)
    (outputs / "checkpoints" / "best.ckpt").write_text("weights")
    with open_run(settings(server.uri), "r", {}) as run:
        log(run, range(10))
        assert run.flush()
        server.stop()
        log(run, range(10, 20))
        run.log_outputs([outputs])
    (outputs / "checkpoints" / "best.ckpt").unlink()  # the spool has kept it
    assert run.unsent
    assert "trilab sync sends it" in run.where
    run_id, status, _ = the_run(server.database)
    assert status == "RUNNING"
    assert sync.main([]) == 1  # still away
    server.start()
    assert sync.main([]) == 0
    assert the_run(server.database)[1] == "FINISHED"
    assert_whole(server.database, run_id, 20)
    file = MlflowClient(server.uri).download_artifacts(run_id, "checkpoints/best.ckpt", str(tmp_path))
    assert Path(file).read_text() == "weights"
    assert list(spool.iterdir()) == []
    assert sync.main([]) == 0
    assert "Everything is sent." in capfd.readouterr().out


def test_a_run_starts_without_its_server_and_is_whole_later(
    server: Server, spool: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.stop()
    with open_run(settings(server.uri), "r", {"mine": "1"}, [("member", {})]) as run:
        assert run.id.startswith("local-")
        run.log_config({"optimizer": {"lr": 0.1}}, [])
        log(run, range(10))
        log(run.members[0], range(5))
    assert len([line for line in capfd.readouterr().err.splitlines() if "starts all the same" in line]) == 1
    server.start()
    assert sync.main([]) == 0
    run_id, status, tags = the_run(server.database)
    assert status == "FINISHED"
    assert tags["mine"] == "1"
    assert tags["trilab.local_id"] == run.outbox.birth.key
    assert MlflowClient(server.database).get_run(run_id).data.params == {"optimizer.lr": "0.1"}
    assert_whole(server.database, run_id, 10)
    member, _, member_tags = the_run(server.database, "member")
    assert member_tags["mlflow.parentRunId"] == member_tags["trilab.seed_batch"] == run_id
    assert_whole(server.database, member, 5)


def test_a_server_that_comes_up_during_the_run_gets_all_of_it(server: Server, spool: Path) -> None:
    server.stop()
    with open_run(settings(server.uri, wait_s=5), "r", {}) as run:
        log(run, range(50))
        server.start()
        assert run.flush()
        assert not run.id.startswith("local-")
        log(run, range(50, 60))
    run_id, status, _ = the_run(server.database)
    assert (run_id, status) == (run.id, "FINISHED")
    assert_whole(server.database, run_id, 60)


def test_offline_fail_starts_nothing(server: Server, spool: Path) -> None:
    server.stop()
    with pytest.raises(Unreachable), open_run(settings(server.uri, offline="fail"), "r", {}):
        pass
    assert not spool.exists()


def test_what_the_user_named_wrongly_is_an_error(server: Server, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        import socket

        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    client = MlflowClient(server.database)
    client.delete_experiment(client.create_experiment("t"))
    with pytest.raises(UserError, match="was deleted"), open_run(settings(server.uri), "r", {}):
        pass
    with pytest.raises(UserError, match="not as an MLflow server"), open_run(settings(f"{server.uri}/no"), "r", {}):
        pass
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises(UserError, match="there is no host nowhere"), open_run(settings("http://nowhere:1"), "r", {}):
        pass
    assert not spool.exists()


def test_a_locked_database_is_waited_for_and_then_spooled(
    workdir: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trilab.tracking.points._BUSY_S", 0.1)
    uri = f"sqlite:///{workdir}/mlflow.db"
    other = sqlite3.connect(workdir / "mlflow.db", isolation_level=None, check_same_thread=False)
    with open_run(settings(uri, wait_s=10), "r", {}) as run:
        log(run, range(5))
        assert run.flush()
        other.execute("BEGIN EXCLUSIVE")
        log(run, range(5, 10))
        time.sleep(0.3)
        assert not run.outbox.journal.is_empty()
        other.execute("ROLLBACK")
    assert_whole(uri, run.id, 10)
    with open_run(settings(uri, wait_s=0.1), "second", {}) as second:
        assert second.flush()
        other.execute("BEGIN EXCLUSIVE")
        log(second, range(10))
    assert second.unsent
    other.execute("ROLLBACK")
    deadline = time.monotonic() + 10
    while sync.main([]) and time.monotonic() < deadline:
        time.sleep(0.1)  # the thread that still waits for the lock keeps the journal until then
    while the_run(uri, "second")[1] == "RUNNING" and time.monotonic() < deadline:
        sync.main([])
    assert_whole(uri, second.id, 10)
    assert the_run(uri, "second")[1] == "FINISHED"


class FullDisk:
    """`os.write` of a disk that takes `room` more bytes from the journals."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._write = os.write

    def __call__(self, fd: int, data: bytes) -> int:
        if not str(Path(f"/proc/self/fd/{fd}").readlink()).endswith("journal.jsonl"):
            return self._write(fd, data)
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = data[: self.room]
        self.room -= len(taken)
        return self._write(fd, taken)


@pytest.mark.parametrize("frees", [True, False])
def test_a_full_disk_keeps_records_in_memory(
    frees: bool, server: Server, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(10**9)
    monkeypatch.setattr("os.write", disk)
    monkeypatch.setattr("trilab.tracking.journal._RETRY_S", 0.0)
    with open_run(settings(server.uri, wait_s=5, flush_s=1000), "r", {}) as run:
        log(run, range(10))
        disk.room = 100  # in the middle of a record
        log(run, range(10, 100))
        assert run.outbox.journal.held > 0
        if frees:
            disk.room = 10**9
        log(run, range(100, 110))
        assert (run.outbox.journal.held == 0) == frees
    run_id, status, _ = the_run(server.database)
    assert status == "FINISHED"
    assert_whole(server.database, run_id, 110)


def test_the_same_points_twice_are_there_once(server: Server) -> None:
    from trilab.tracking.points import PointWriter

    for uri in (server.uri, server.database):
        client = MlflowClient(uri)
        run_id = client.create_run("0").info.run_id
        points = [("a", step / 3, 1000 + step, step) for step in range(50)] + [("n", float("nan"), 1, 0)]
        for part in (points[:30], points, points[::-1]):
            PointWriter(client, uri).write(run_id, part)
        assert [(m.value, m.timestamp, m.step) for m in client.get_metric_history(run_id, "a")] == [
            point[1:] for point in points[:50]
        ]
        assert client.get_run(run_id).data.metrics["a"] == 49 / 3


def test_metrics_written_past_mlflow_are_as_mlflow_writes_them(workdir: Path) -> None:
    from mlflow.entities import Metric

    from trilab.tracking.points import PointWriter

    uri, rows = f"sqlite:///{workdir}/mlflow.db", {}
    client = MlflowClient(uri)
    values = [0.1, float("nan"), float("inf"), -float("inf"), 1e-310, -0.0, 3.0, 1 / 3]
    points = [("a/b c.d-e", value, 500 + order % 3, order % 4) for order, value in enumerate(values)]
    for kind in ("ours", "theirs"):
        run_id = client.create_run("0").info.run_id
        if kind == "ours":
            PointWriter(client, uri).write(run_id, points)
        else:
            client.log_batch(run_id, [Metric(*point) for point in points])
        with sqlite3.connect(workdir / "mlflow.db") as database:
            rows[kind] = [
                sorted(database.execute(
                    f"SELECT key, value, timestamp, step, is_nan FROM {table} WHERE run_uuid = ?", (run_id,)
                ))
                for table in ("metrics", "latest_metrics")
            ]  # fmt: skip
    assert rows["ours"] == rows["theirs"]


def test_a_metric_that_the_store_refuses_is_set_aside_and_the_rest_is_there(
    server: Server, spool: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for uri in (server.uri, server.database):
        with open_run(settings(uri, wait_s=60), "r", {}) as run:
            run.outbox.metrics({"good": 1.0, "bad?name": 2.0}, 1)
            run.outbox.metrics({"good": 2.0}, 2)
        found = MlflowClient(server.database).get_run(run.id)
        assert found.info.status == "FINISHED"
        assert found.data.metrics == {"good": 2.0}
        assert "trilab.refused" in found.data.tags
        assert "bad?name" in (spool / "refused" / f"{run.outbox.birth.key}.jsonl").read_text()
    assert capfd.readouterr().err.count("the store refused a record") == 2


def test_a_run_that_is_deleted_while_it_trains_trains_on(
    server: Server, spool: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for uri in (server.uri, server.database):
        with open_run(settings(uri), "r", {}) as run:
            MlflowClient(server.database).delete_run(run.id)
            log(run, range(10))
        assert capfd.readouterr().err.count("was deleted in the store") == 1
        assert run.outbox.journal.folder is not None
        assert run.outbox.journal.folder.is_dir()


def test_a_crash_of_the_logger_ends_no_training(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{workdir}/mlflow.db"

    def crash(*_: object) -> None:
        raise TypeError("a bug")

    with open_run(settings(uri), "r", {}) as run:
        run.outbox.metrics({"a": "no number"}, 1)  # type: ignore[dict-item]
        run.outbox.metrics({"a": 1.0}, 2)
        assert run.flush()
        monkeypatch.setattr("trilab.tracking.points._insert", crash)
        run.outbox.metrics({"a": 2.0}, 3)
    found = MlflowClient(uri).get_run(run.id)
    assert found.info.status == "FINISHED"
    assert "metrics at step 1" in found.data.tags["trilab.tracking_error"]
    assert "a bug" in found.data.tags["trilab.refused"]
    assert capfd.readouterr().err.count("The run goes on") == 2


def test_artifacts_that_cannot_be_uploaded_hold_nothing_else_up(
    workdir: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{workdir}/mlflow.db"

    def fail(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    upload = MlflowClient.log_text
    monkeypatch.setattr(MlflowClient, "log_text", fail)
    with open_run(settings(uri), "r", {}, [("member", {})]) as run:
        run.outbox.text("x", "x.txt")
        log(run, range(5))
        log(run.members[0], range(5))
    assert run.unsent
    for one in run.all:
        assert_whole(uri, one.id, 5)
        assert MlflowClient(uri).get_run(one.id).info.status == "FINISHED"
    monkeypatch.setattr(MlflowClient, "log_text", upload)
    assert sync.main([]) == 0
    assert Path(MlflowClient(uri).download_artifacts(run.id, "x.txt")).read_text() == "x"
    assert list(spool.iterdir()) == []


def test_non_finite_metrics_are_what_they_are_and_raise_a_tag(server: Server) -> None:
    for uri in (server.uri, server.database):
        with open_run(settings(uri, wait_s=60), "r", {}) as run:
            run.outbox.metrics({"x": 1e308, "y": 1e308}, 1)  # their sum is infinite, and they are not
            assert run.flush()
            assert "trilab.non_finite" not in MlflowClient(server.database).get_run(run.id).data.tags
            for step, value in enumerate((float("nan"), float("inf"), -float("inf")), start=2):
                run.outbox.metrics({"fine": 1.0, "train/loss": value}, step)
        client = MlflowClient(uri)
        assert client.get_run(run.id).data.tags["trilab.non_finite"] == "train/loss is nan at step 2"
        nan, most, least = [
            m.value for m in sorted(client.get_metric_history(run.id, "train/loss"), key=lambda m: m.step)
        ]
        assert nan != nan
        # MLflow's tables have the largest float in infinity's place.
        assert (most, least) == (1.7976931348623157e308, -1.7976931348623157e308)


def _child(run: Run) -> None:
    run.outbox.metrics({"a": 1e9}, 10**6)


def test_the_child_of_a_fork_sends_nothing_and_holds_no_lock(workdir: Path, spool: Path) -> None:
    uri = f"sqlite:///{workdir}/mlflow.db"
    with open_run(settings(uri, wait_s=60), "r", {}) as run:
        log(run, range(5))
        child = multiprocessing.get_context("fork").Process(target=_child, args=(run,))
        child.start()
        child.join()
    assert child.exitcode == 0
    assert_whole(uri, run.id, 5)
    assert list(spool.iterdir()) == []


def test_sync_says_that_a_running_process_still_has_something(
    workdir: Path, spool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{workdir}/mlflow.db"
    with open_run(settings(uri, wait_s=60), "r", {}) as run:
        log(run, range(5))
        assert sync.main([]) == 0
        assert "but what 1 running process still has" in capsys.readouterr().out
    assert sync.main([]) == 0
    assert capsys.readouterr().out == "Everything is sent.\n"


def test_many_threads_lose_nothing(workdir: Path) -> None:
    uri = f"sqlite:///{workdir}/mlflow.db"
    with open_run(settings(uri, wait_s=60), "r", {}) as run:
        threads = [
            threading.Thread(target=lambda k=k: [run.outbox.metrics({f"m{k}": s / 3}, s) for s in range(500)])
            for k in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    client = MlflowClient(uri)
    for k in range(4):
        history = sorted((m.step, m.value) for m in client.get_metric_history(run.id, f"m{k}"))
        assert history == [(s, s / 3) for s in range(500)]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [15, pytest.param(60, marks=pytest.mark.exhaustive)])
def test_a_real_server_killed_in_mid_run_has_every_point_afterwards(
    seconds: float, real_server: RealServer, spool: Path
) -> None:
    step = 0
    with open_run(settings(real_server.uri, wait_s=60, flush_s=0.5), "r", {}) as run:
        for phase in ("up", "away", "up"):
            if phase == "away":
                real_server.stop()
            elif step:
                real_server.start()
            until = time.monotonic() + (seconds if phase == "away" else 3)
            while time.monotonic() < until:
                log(run, range(step, step + 1))
                step += 1
                time.sleep(0.002)
    assert not run.unsent
    assert_whole(real_server.database, run.id, step)
    assert the_run(real_server.database)[1] == "FINISHED"


#: One of many processes that record as fast as they can for a while; it says how many steps it recorded.
MANY = """
    import sys, time
    from trilab.tracking.run import open_run
    from trilab.tracking.settings import Tracking

    step, until = 0, time.monotonic() + float(sys.argv[2])
    with open_run(Tracking("t", uri=sys.argv[1], flush_s=0.2, wait_s=120), sys.argv[3], {}) as run:
        while time.monotonic() < until:
            run.outbox.metrics({"a": step / 7, "b": -float(step)}, step)
            step += 1
            time.sleep(0.002)
    assert not run.unsent
    print(step)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [15])  # ten minutes of it: benchmarks/eight_processes.py
def test_eight_processes_on_one_sqlite_store_lose_nothing(seconds: float, workdir: Path, spool: Path) -> None:
    uri = f"sqlite:///{workdir}/mlflow.db"
    processes = [
        warm.Python("-c", textwrap.dedent(MANY), uri, str(seconds), f"p{number}", stderr=subprocess.PIPE)
        for number in range(8)
    ]
    outputs = [process.communicate(timeout=seconds + 300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    for number, (steps, said) in enumerate(outputs):
        assert "locked" not in said
        run_id, status, _ = the_run(uri, f"p{number}")
        assert status == "FINISHED"
        assert int(steps) > 1000
        assert_whole(uri, run_id, int(steps))
    assert list(spool.iterdir()) == []
