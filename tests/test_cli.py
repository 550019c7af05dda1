"""The commands that do not train."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from trilab import __version__
from trilab.cli import COMMANDS, main
from trilab.commands.train import parse
from trilab.errors import ConfigError


def trilab(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    return int(raised.value.code or 0)


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_fits_on_one_screen(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert trilab(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 3 < len(lines) <= 30
    assert max(map(len, lines)) <= 120
    assert lines[0].startswith("trilab")


def test_version_and_wrong_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert trilab("--version") == 0
    assert capsys.readouterr().out == f"trilab {__version__}\n"
    assert trilab("trian") == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err
    assert trilab() == 2


def test_flags_may_stand_anywhere() -> None:
    flags, ordered = parse(["seed=1,2", "-m", "~callbacks.progress", "--config-dir", "here", "x=1"])
    assert flags.multirun
    assert flags.config_dir == "here"
    assert ordered == ["-m", "--config-dir", "here", "seed=1,2", "~callbacks.progress", "x=1"]
    with pytest.raises(ConfigError, match="unrecognized arguments: --nonsense"):
        parse(["--nonsense", "seed=1"])


def test_list_names_everything_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert trilab("list") == 0
    shown = capsys.readouterr().out
    for expected in (
        "experiment=rl/double_dqn_cartpole",
        "model=vision/mnist_cnn",
        "data=recsys/synthetic",
        "precision=16-mixed",
        "accelerator=mps",
    ):
        [line] = [line for line in shown.splitlines() if line.split()[:1] == [expected]]
        assert len(line.split()) > 3
    assert trilab("list", "optimizer") == 0
    assert "optimizer=sgd" in capsys.readouterr().out
    assert trilab("list", "optimiser") == 2
    assert "Did you mean 'optimizer'?" in capsys.readouterr().err


def test_list_knows_where_a_sweeps_runs_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert trilab("list", "hydra/launcher", "hydra/sweeper") == 0
    shown = capsys.readouterr().out
    for option in ("launcher=basic", "launcher=joblib", "launcher=slurm", "sweeper=grid", "sweeper=optuna"):
        assert f"hydra/{option} " in shown


def test_doctor_finds_this_machine_fit(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trilab("doctor") == 0
    shown = capsys.readouterr().out
    for row in (
        "python",
        "torch ",
        "mlflow",
        "accelerator=cpu",
        "precision=bf16-mixed",
        "tracking store",
        "data=vision/mnist",
    ):
        assert row in shown
    assert "The default experiment can run here" in shown
    assert "a matrix product takes" in shown
    rows = {line.split()[1]: line for line in shown.splitlines() if " data=" in line}
    assert "data.root" in rows["data=vision/image_folder"]
    assert "__init__" not in shown


def test_doctor_says_what_is_missing(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trilab("doctor", "paths.data=nowhere") == 0  # the default experiment needs no files
    [row] = [line for line in capsys.readouterr().out.splitlines() if "data=vision/mnist" in line]
    assert "–" in row
    (workdir / "mlflow.db").write_text("this is no database")
    assert trilab("doctor") == 1
    assert "The default experiment cannot run here: see tracking store" in " ".join(capsys.readouterr().out.split())


def _complete(line: str) -> set[str]:
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = subprocess.run(
        [sys.executable, "-m", "trilab", "-sc", "query=bash"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_completion_knows_commands_options_and_keys() -> None:
    assert _complete("trilab tr") == {"train"}
    assert "experiment=rl/dqn_cartpole" in _complete("trilab train experiment=rl/")
    assert _complete("trilab train precision=b") == {"precision=bf16-mixed"}
    assert "optimizer.lr=" in _complete("trilab train optimizer.")
    script = subprocess.run(
        [sys.executable, "-m", "trilab", "train", "-sc", "install=bash"], capture_output=True, text=True, check=True
    ).stdout
    assert "complete -o nospace" in script


@pytest.mark.slow
def test_ui_serves_the_store_and_leaves_no_process(workdir: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "trilab", "ui"], cwd=workdir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert server.stdout is not None
    shown = server.stdout.readline() + server.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+", shown)
    assert address, shown
    with urllib.request.urlopen(address[0], timeout=30) as page:
        assert b"MLflow" in page.read()
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    assert len(family) > 1
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=30) == 0
    time.sleep(0.5)
    assert [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []


def test_ui_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert trilab("ui") == 1
    assert "run trilab train first" in capsys.readouterr().err
    for argument in ("prot=1", "port=x", "port=99999"):
        assert trilab("ui", argument) == 2
