"""The same sweep on every launcher: the same runs, the same numbers, true ends, nothing left behind."""

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import warm
from conftest import FEW_STEPS, SMALL
from mlflow import MlflowClient
from mlflow.entities import Run

from trilab.config.preflight import preflight
from trilab.errors import ConfigError
from trilab.sweeps.dispatch import dispatch
from trilab.sweeps.worker import Ended

RUN = [
    "experiment=recsys/deepfm_synthetic",
    *FEW_STEPS,
    *SMALL["recsys"],
    "tracking.system_metrics=false",
    "sweep.compare=false",
]
#: Two of the four are refused by Lightning when they are about to train.
SWEEP = ["-m", *RUN, "seed=1,2", "trainer.val_check_interval=1,100000"]
#: Minutes, if nobody stops it.
LONG = ["-m", "experiment=recsys/deepfm_synthetic", *SMALL["recsys"], "trainer.max_epochs=100000", "sweep.name=long"]
LAUNCHERS = ["joblib", pytest.param("submitit_local", marks=pytest.mark.exhaustive), "ray"]  # Slurm: below


def needs(launcher: str) -> None:
    package = {"submitit_local": "submitit", "slurm": "submitit"}.get(launcher, launcher)
    pytest.importorskip(package, reason=f"needs the package {package}")


@dataclass
class Store:
    """What a sweep has left in a folder's store."""

    folder: Path

    def runs(self) -> list[Run]:
        client = MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))

    @property
    def parent(self) -> Run:
        [found] = [run for run in self.runs() if run.data.tags.get("trilab.kind") == "sweep"]
        return found

    @property
    def children(self) -> dict[str, Run]:
        found = [run for run in self.runs() if run.data.tags.get("trilab.kind") != "sweep"]
        assert {run.data.tags["mlflow.parentRunId"] for run in found} <= {self.parent.info.run_id}
        return {run.info.run_name: run for run in found}


def numbers(run: Run) -> dict[str, float]:
    """What does not depend on the machine's speed."""
    return {name: value for name, value in run.data.metrics.items() if not name.startswith(("perf/", "system/"))}


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("basic")
    done = warm.run("train", *SWEEP, cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    return Store(folder)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_gives_what_the_first_one_gives(launcher: str, basic: Store, workdir: Path) -> None:
    needs(launcher)
    done = warm.run("train", *SWEEP, f"hydra/launcher={launcher}", cwd=workdir)
    assert done.returncode == 1, done.stdout + done.stderr
    store = Store(workdir)
    assert store.parent.info.status == basic.parent.info.status == "FAILED"
    assert store.children.keys() == basic.children.keys()
    assert len(store.children) == 4
    for name, run in store.children.items():
        assert run.info.status == basic.children[name].info.status
        assert numbers(run) == numbers(basic.children[name])
        assert run.data.tags["trilab.config_hash"] == basic.children[name].data.tags["trilab.config_hash"]
    assert sorted(run.info.status for run in store.children.values()) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    assert "2 of 4 runs finished, 2 failed" in done.stdout
    assert "must be less than or equal to the number of the training batches" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def wait_for(condition: Callable[[], object], process: warm.Trilab, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.3)


def validated(store: Store) -> list[Run]:
    return [run for run in store.runs() if "val/auc" in run.data.metrics]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", ["joblib", pytest.param("ray", marks=pytest.mark.exhaustive)]
)  # submitit: see that of Slurm below
def test_ctrl_c_ends_every_run_and_leaves_no_process(launcher: str, workdir: Path) -> None:
    needs(launcher)
    store = Store(workdir)
    parallel = "cpus_per_run=1" if launcher == "ray" else "n_jobs=2"
    # More processors than there are: the runs are to be two at once wherever the test runs.
    more = ["hydra.launcher.num_cpus=2"] if launcher == "ray" else []
    choice = [f"hydra/launcher={launcher}", f"hydra.launcher.{parallel}", *more]
    process = warm.Trilab("train", *LONG, "seed=1,2,3", *choice, cwd=workdir)
    wait_for(lambda: len(validated(store)) == 2, process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert store.parent.info.status == "KILLED"
    assert {run.info.status for run in store.children.values()} == {"KILLED"}
    assert {run.data.tags["trilab.end"] for run in store.children.values()} == {"SIGTERM"}
    psutil.wait_procs(family, timeout=10)
    assert [own for own in family if own.is_running() and own.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", pytest.param("submitit_local", marks=pytest.mark.exhaustive)])
def test_a_worker_that_is_killed_takes_no_other_run_with_it(launcher: str, workdir: Path) -> None:
    needs(launcher)
    store = Store(workdir)
    parallel = ["hydra.launcher.num_cpus=2"] if launcher == "ray" else ["hydra.launcher.n_jobs=2"]
    # The first run goes on until somebody ends it.
    epochs = ["trainer.max_epochs=100000,2,3"]
    sweep = [*(text for text in LONG if "max_epochs" not in text), *epochs]
    process = warm.Trilab("train", *sweep, f"hydra/launcher={launcher}", *parallel, cwd=workdir)
    first = workdir / "outputs" / "sweeps" / "long" / "0" / "process.json"
    started = "trainer.max_epochs=100000"
    wait_for(lambda: first.is_file() and started in {run.info.run_name for run in store.runs()}, process)
    wait_for(lambda: any(run.info.status == "FINISHED" for run in store.runs()), process)
    os.kill(int(json.loads(first.read_text())["process.pid"]), signal.SIGKILL)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 1, output
    ends = {name: run.info.status for name, run in store.children.items()}
    assert ends == {
        "trainer.max_epochs=100000": "KILLED",
        "trainer.max_epochs=2": "FINISHED",
        "trainer.max_epochs=3": "FINISHED",
    }
    assert store.parent.info.status == "FAILED"
    assert "2 of 3 runs finished, 1 failed" in output
    rows = [line for line in output.splitlines() if line.startswith("trainer.max_epochs=100000 ")]
    [row] = [row for row in rows if "failed:" in row]
    assert "process" in row


@pytest.mark.exhaustive
@pytest.mark.slow
def test_workers_end_with_the_process_that_launched_them(workdir: Path) -> None:
    store = Store(workdir)
    process = warm.Trilab("train", *LONG, "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", cwd=workdir)
    wait_for(lambda: len(validated(store)) == 2, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert [run.info.status for run in store.children.values()] == ["KILLED", "KILLED"]


SLURM = '''\
#!{python}
"""sbatch, srun, sacct and scancel of a cluster of one machine, whose jobs begin at once."""
import os, pathlib, re, signal, subprocess, sys
home, name, given = pathlib.Path(__file__).parent / "jobs", pathlib.Path(sys.argv[0]).name, sys.argv[1:]
home.mkdir(exist_ok=True)
if name == "srun":
    start = next(i for i, word in enumerate(given) if "python" in pathlib.Path(word).name)
    os.execvp(given[start], given[start:])
elif name == "sbatch":
    script = pathlib.Path(given[-1])
    (home / "script").write_text(script.read_text())
    found = re.search(r"--array=(\\d+)-(\\d+)", script.read_text())
    tasks = range(int(found[1]), int(found[2]) + 1) if found else [None]
    for task in tasks:
        own = {{"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0",
               "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here"}}
        if task is not None:
            own |= {{"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": str(8 + task)}}
        job = subprocess.Popen(["bash", str(script)], env={{**os.environ, **own}}, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=(home / "err").open("a"))
        (home / ("7" if task is None else f"7_{{task}}")).write_text(str(job.pid))
    print("Submitted batch job 7")
elif name == "sacct":
    print("JobID|State|NodeList")
    for file in home.glob("7*"):
        alive = subprocess.run(["ps", "-o", "stat=", "-p", file.read_text()], capture_output=True, text=True).stdout
        print(f"{{file.name}}|{{'RUNNING' if alive.strip() and 'Z' not in alive else 'CANCELLED'}}|here")
elif name == "scancel":
    for file in home.glob(f"{{given[-1]}}*"):
        os.killpg(int(file.read_text()), signal.SIGTERM)
'''


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the commands of a Slurm cluster, which is first on the path."""
    needs("slurm")
    home = tmp_path / "slurm"
    home.mkdir()
    for name in ("sbatch", "srun", "sacct", "scancel"):
        file = home / name
        file.write_text(SLURM.format(python=sys.executable))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    return home


@pytest.mark.slow
def test_slurm_gets_an_array_and_gives_the_same(slurm: Path, basic: Store, workdir: Path) -> None:
    knobs = [
        "hydra.launcher.partition=short",
        "hydra.launcher.timeout_min=9",
        "hydra.launcher.array_parallelism=4",
        "hydra.launcher.setup=['export A=1']",
    ]
    done = warm.run("train", *SWEEP, "hydra/launcher=slurm", *knobs, cwd=workdir)
    assert done.returncode == 1, done.stdout + done.stderr
    script = (slurm / "jobs" / "script").read_text()
    for expected in ("--partition=short", "--time=9", "--array=0-3%4", "--cpus-per-task=4", "export A=1"):
        assert expected in script
    store = Store(workdir)
    assert store.children.keys() == basic.children.keys()
    for name, run in store.children.items():
        assert run.info.status == basic.children[name].info.status
        assert numbers(run) == numbers(basic.children[name])


@pytest.mark.slow
def test_ctrl_c_cancels_the_jobs_of_slurm(slurm: Path, workdir: Path) -> None:
    store = Store(workdir)
    process = warm.Trilab("train", *LONG, "seed=1,2", "hydra/launcher=slurm", cwd=workdir)
    wait_for(lambda: len(validated(store)) == 2, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert {run.info.status for run in store.runs()} == {"KILLED"}


# What is refused


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["hydra/launcher=joblb"], "hydra/launcher=joblb: no such option. Did you mean 'joblib'?"),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: expected a whole number > 0"),
        (["hydra/launcher=joblib", "hydra.launcher.n_job=2"], "n_job: no such key. Did you mean 'n_jobs'"),
        (["hydra/launcher=slurm"], "there is no Slurm here"),
    ],
)
def test_a_launcher_that_cannot_be_is_refused_before_anything_starts(
    overrides: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trilab.config.launcher.find_spec", lambda name: object())
    monkeypatch.setattr("trilab.config.launcher.which", lambda name: None)
    with pytest.raises(ConfigError) as raised:
        preflight(["seed=1,2", *overrides], None, multirun=True)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("launcher", "here"),
    [
        (["hydra/launcher=slurm"], False),
        (["hydra/launcher=ray", "hydra.launcher.address=head:6379"], False),
        (["hydra/launcher=ray"], True),
        (["hydra/launcher=joblib"], True),
        ([], True),
    ],
)
def test_the_devices_of_other_machines_are_theirs_to_check(
    launcher: list[str], here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trilab.config.launcher.find_spec", lambda name: object())
    monkeypatch.setattr("trilab.config.launcher.which", lambda name: name)
    monkeypatch.setattr("trilab.runtime.available", lambda: ("cpu",))
    overrides = ["seed=1,2", "experiment=vision/mnist_cnn", "accelerator=cuda", *launcher]
    if not here:
        assert preflight(overrides, None, multirun=True).runs == 2
        return
    with pytest.raises(ConfigError, match="accelerator=cuda: this machine has none"):
        preflight(overrides, None, multirun=True)


@pytest.mark.parametrize(
    ("launcher", "package"), [("ray", "ray"), ("slurm", "submitit"), ("submitit_local", "submitit")]
)
def test_a_missing_package_is_one_line_with_the_command(
    launcher: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trilab.config.launcher.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"needs the package {package}: pip install 'trilab\[") as raised:
        preflight(["seed=1,2", f"hydra/launcher={launcher}"], None, multirun=True)
    assert "\n" not in str(raised.value)


# The way of the jobs


class Fake:
    """A pool in which what is started ends at the next look; a job in `lost` vanishes."""

    def __init__(self, room: int | None, lost: tuple[int, ...] = ()) -> None:
        self.room, self.lost = room, lost
        self.running: list[int] = []
        self.most = 0
        self.batches: list[list[int]] = []
        self.stopped: list[int] = []

    def start(self, jobs: Any) -> None:
        self.batches.append([job.number for job in jobs])
        self.running += self.batches[-1]
        self.most = max(self.most, len(self.running))

    def ended(self, wait_s: float) -> list[tuple[int, Ended | None]]:
        first = self.running.pop(0)
        return [(first, None if first in self.lost else Ended(value=first))]

    def why(self, number: int) -> str:
        return "gone"

    def stop(self, jobs: Any) -> None:
        self.stopped = [job.number for job in jobs]

    def close(self) -> None: ...


def jobs(count: int) -> Iterator[Any]:
    return iter([SimpleNamespace(number=number) for number in range(count)])


def test_jobs_are_handed_out_as_there_is_room() -> None:
    pool = Fake(room=2, lost=(1,))
    ends = {job.number: end for job, end in dispatch(pool, jobs(5), 5)}
    assert pool.most == 2
    assert pool.batches == [[0], [1], [2], [3], [4]]
    assert ends == {0: Ended(0), 1: None, 2: Ended(2), 3: Ended(3), 4: Ended(4)}


def test_without_a_limit_all_are_handed_over_at_once() -> None:
    pool = Fake(room=None)
    assert len(list(dispatch(pool, jobs(5), 5))) == 5
    assert pool.batches == [[0, 1, 2, 3, 4]]


def test_who_stops_the_dispatch_stops_what_runs() -> None:
    class Stopped(BaseException):
        pass

    pool = Fake(room=3)
    ended = pool.ended

    def stop_at_the_second_look(wait_s: float) -> list[tuple[int, Ended | None]]:
        if len(pool.batches) > 3:
            raise Stopped
        return ended(wait_s)

    pool.ended = stop_at_the_second_look  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        list(dispatch(pool, jobs(9), 9))
    assert pool.stopped == [1, 2, 3]
