"""trilab sweep, on a store that was made by hand."""

import re
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from test_train import trilab

from trilab.tracking.process import process_tags

#: A process that is certainly gone: this one's number, and another start.
GONE = {**process_tags(), "process.start": "1"}


class Made:
    """A sweep of six runs, started 100 s ago."""

    def __init__(self, folder: Path, name: str = "lr") -> None:
        self.client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        self.begun = int(time.time()) - 100
        tags = {
            "trilab.kind": "sweep",
            "trilab.sweep": name,
            "trilab.sweep_runs": "6",
            "trilab.sweep_started": str(self.begun),
            "trilab.best": "optimizer.lr=0.1",
            "trilab.objectives": "max val/auc",
            "mlflow.source.name": "trilab train -m optimizer.lr=0.1,0.2",
            **process_tags(),
        }
        self.parent = self.client.create_run("0", self.begun * 1000, tags, name).info.run_id
        for metric, value in (("best/test/auc", 0.8), ("best/val/auc", 0.9)):
            self.client.log_metric(self.parent, metric, value)

    def child(self, name: str, status: str, at_s: int = 0, **tags: str) -> None:
        own = {"mlflow.parentRunId": self.parent, "trilab.config_hash": name, **process_tags(), **tags}
        run = self.client.create_run("0", (self.begun + at_s) * 1000, own, name)
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status)


def rows(text: str) -> dict[str, str]:
    lines = [re.split(r"  +", line, maxsplit=1) for line in text.splitlines() if "  " in line]
    return dict(lines)  # type: ignore[arg-type]


@pytest.fixture
def running(workdir: Path) -> Made:
    made = Made(workdir)
    made.child("a", "FAILED", -50)
    made.child("a", "FINISHED", 10)  # made again
    made.child("b", "FINISHED", 20, **{"trilab.pruned": "val/auc 0.1 at validation 2"})
    made.child("c", "FAILED", 30)
    made.child("d", "RUNNING", 40)
    made.child("e", "RUNNING", 50, **GONE)
    return made


def test_a_running_sweep_says_what_is_done_and_what_is_left(running: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert trilab("sweep", "status", "lr") == 0
    shown = rows(capsys.readouterr().out)
    assert shown["sweep"].startswith("lr, RUNNING, started ")
    assert shown["done"] == "2 of 6, 1 of them pruned"
    assert shown["running"] == "1  d"
    assert shown["failed"] == "1  c"
    assert shown["stopped"] == "1  e"
    assert shown["to do"] == "2"
    assert shown["best so far"] == "optimizer.lr=0.1 (val/auc 0.9, test/auc 0.8)"
    # Three have ended in 100 s, and three are left: those to do, and the one that runs.
    left = re.fullmatch(r"about (?:(\d+) s|(\d+) min)", shown["time left"])
    assert left
    assert 95 <= int(left[1] or 60 * int(left[2])) <= 130
    assert "go on" not in shown


def test_a_sweep_whose_process_is_gone_says_how_to_go_on(running: Made, capsys: pytest.CaptureFixture[str]) -> None:
    for key, value in GONE.items():
        running.client.set_tag(running.parent, key, value)
    assert trilab("sweep", "status", "lr") == 0
    shown = rows(capsys.readouterr().out)
    assert shown["sweep"].startswith("lr, KILLED, started ")
    assert "time left" not in shown
    assert shown["go on"].endswith("train -m optimizer.lr=0.1,0.2 sweep.name=lr")


def test_a_finished_sweep_has_nothing_to_do(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(workdir)
    for name in "abcdef":
        made.child(name, "FINISHED")
    made.client.set_terminated(made.parent)
    assert trilab("sweep", "status", "lr", f"tracking.uri=sqlite:///{workdir}/mlflow.db") == 0
    shown = rows(capsys.readouterr().out)
    assert (shown["done"], shown["to do"]) == ("6 of 6", "0")
    assert not {"go on", "time left"} & set(shown)


def test_every_sweep_has_a_line(running: Made, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Made(workdir, "other")
    other.client.set_terminated(other.parent)
    assert trilab("sweep", "list") == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert re.split(r"  +", header.strip()) == ["sweep", "status", "done", "failed", "started", "best"]
    found = {line.split()[0]: re.split(r"  +", line.strip())[1:4] for line in lines}
    assert found == {"lr": ["RUNNING", "2 of 6", "1"], "other": ["FINISHED", "0 of 6", "0"]}


def test_a_store_without_sweeps_says_so(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trilab("sweep", "list") == 0
    assert "There are no sweeps in the store." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "lrr"], "'lrr': no such sweep in the store. Did you mean 'lr'? There are: lr."),
        (["status"], "sweep status takes one name"),
        (["list", "lr"], "sweep list takes no name: lr"),
        (["statu", "lr"], "sweep: no action 'statu'. Did you mean 'status'?"),
        ([], "sweep: what of it? Allowed: trilab sweep status NAME"),
        (["list", "seed=1"], "sweep: unknown argument 'seed=1'. Allowed: tracking.uri=..."),
        (["list", "tracking.uri=sqlite:///nowhere.db"], "There is no store"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], said: str, running: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trilab("sweep", *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
