"""Runs whose process is gone are ended by the next command; a live process, and any that cannot be judged, never is."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import warm
from mlflow import MlflowClient
from mlflow.entities import Run

from trilab.commands import sync
from trilab.tracking.process import is_gone, process_tags
from trilab.tracking.recovery import end_orphans
from trilab.tracking.run import open_run
from trilab.tracking.settings import Tracking
from trilab.tracking.spool import Birth

#: A training that records a number at each step and would go on for ever; it says how far it is.
FOREVER = """
    import itertools, sys
    from trilab.tracking.run import open_run
    from trilab.tracking.settings import Tracking

    settings = Tracking("t", uri=sys.argv[1], system_metrics=False, flush_s=float(sys.argv[2]))
    with open_run(settings, "killed", {}) as run:
        run.flush()
        for step in itertools.count():
            run.outbox.metrics({"a": step / 7}, step)
            if step == 5000:
                print("far enough", flush=True)
"""


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "spool"
    monkeypatch.setenv("TRILAB_SPOOL", str(folder))
    return folder


def killed(uri: str, flush_s: float) -> None:
    """Starts it, and kills it while it writes."""
    with warm.Python("-c", textwrap.dedent(FOREVER), uri, str(flush_s)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "far enough\n"
        process.kill()


def runs_of(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


@pytest.mark.slow
@pytest.mark.parametrize("flush_s", [1000.0, 0.05])
def test_sigkill_loses_no_point_and_the_next_run_ends_the_killed_one(
    flush_s: float, workdir: Path, spool: Path
) -> None:
    uri = f"sqlite:///{workdir}/mlflow.db"
    killed(uri, flush_s)
    [run] = runs_of(uri)
    assert run.info.status == "RUNNING"
    [folder] = spool.glob("local-*")
    [*_, last] = [line for line in (folder / "journal.jsonl").read_text().splitlines() if '"m"' in line]
    with open_run(Tracking("t", uri=uri, system_metrics=False), "next", {}):
        pass
    [run] = [run for run in runs_of(uri) if run.info.run_name == "killed"]
    assert run.info.status == "KILLED"
    assert "ended without a word" in run.data.tags["trilab.end"]
    points = sorted((p.step, p.value) for p in MlflowClient(uri).get_metric_history(run.info.run_id, "a"))
    assert len(points) > 5000
    assert points == [(step, step / 7) for step in range(len(points))]
    assert f'"s":{len(points) - 1},' in last
    assert run.info.end_time == max(p.timestamp for p in MlflowClient(uri).get_metric_history(run.info.run_id, "a"))
    assert list(spool.glob("local-*")) == []


def test_only_a_process_that_is_certainly_gone_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        own = process_tags()
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        other = {**own, "process.pid": str(process.pid), "process.start": stat[19]}
        assert not is_gone(own)
        assert not is_gone(other)
        assert is_gone({**other, "process.start": "1"})  # its number was given to another
        process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 5
        while not is_gone(other):  # not yet reaped
            assert time.monotonic() < deadline
    assert is_gone(other)
    for unknown in ({"process.space": "another boot"}, {"process.space": ""}, {"process.start": ""}):
        assert not is_gone({**other, **unknown})
    assert not is_gone({})


def test_a_search_finds_the_orphans_of_this_machine_alone(workdir: Path, spool: Path) -> None:
    uri = f"sqlite:///{workdir}/mlflow.db"
    client = MlflowClient(uri)
    gone = {**process_tags(), "process.start": "1"}
    made = {
        "gone": gone,
        "live": process_tags(),
        "elsewhere": {**gone, "process.space": "another boot"},
        "other tool": {},
    }
    ids = {name: client.create_run("0", tags=tags).info.run_id for name, tags in made.items()}
    client.log_metric(ids["gone"], "a", 1.0, timestamp=123456)
    assert [run.info.run_id for run in end_orphans(client)] == [ids["gone"]]
    statuses = {name: client.get_run(run_id).info.status for name, run_id in ids.items()}
    assert statuses == {"gone": "KILLED", "live": "RUNNING", "elsewhere": "RUNNING", "other tool": "RUNNING"}
    assert client.get_run(ids["gone"]).info.end_time == 123456
    assert end_orphans(client) == []


def test_sync_leaves_a_run_that_still_trains_and_one_of_another_machine(
    workdir: Path, spool: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{workdir}/mlflow.db"
    settings = Tracking("t", uri=uri, system_metrics=False, flush_s=1000)
    with open_run(settings, "r", {}) as run:
        run.outbox.metrics({"a": 1.0}, 0)
        assert sync.main([]) == 0
        assert MlflowClient(uri).get_run(run.id).info.status == "RUNNING"
        folder = run.outbox.journal.folder
        assert folder is not None
        far = Birth.read(folder)
    far.tags["process.space"], far.tags["process.host"] = "another boot", "far"
    (spool / far.key).mkdir()
    far.write(spool / far.key)
    (spool / far.key / "journal.jsonl").write_text('{"t":1,"s":0,"m":{"a":1.0}}\n')
    assert sync.main([]) == 1
    assert "far, which may still run" in capfd.readouterr().out
    assert (spool / far.key / "journal.jsonl").exists()


def test_a_run_that_ended_keeps_its_status_though_only_its_folder_was_left(workdir: Path, spool: Path) -> None:
    uri = f"sqlite:///{workdir}/mlflow.db"
    with open_run(Tracking("t", uri=uri, system_metrics=False), "r", {}) as run:
        birth = run.outbox.birth
    (spool / birth.key).mkdir()
    birth.write(spool / birth.key)
    (spool / birth.key / "journal.jsonl").write_text('{"end":"FINISHED","t":5}\n{"sent": 25}\n')
    os.truncate(spool / birth.key / "journal.jsonl", 0)
    assert sync.main([]) == 0
    assert MlflowClient(uri).get_run(run.id).info.status == "FINISHED"
    assert not (spool / birth.key).exists()
