"""A store of real runs, made through the command line, and MLflow's UI on it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import warm
from mlflow import MlflowClient
from mlflow.entities import Run

#: The experiments of the store.
CLICKS, AGENT, IMAGES = "recsys/deepfm_synthetic", "rl/dqn_cartpole", "vision/mnist_cnn"
#: The sweep's name.
SWEEP = "precision"
_ONE_THREAD = ["accelerator=cpu", "accelerator.threads=1", "tracking.system_metrics_interval_s=1"]
_SWEEP = [
    "-m", f"experiment={CLICKS}", f"sweep.name={SWEEP}", "seed=1,2", "precision=fp32,bf16-mixed",
    "data.train_rows=20000", "data.val_rows=5000", "data.test_rows=5000", "trainer.max_epochs=3",
    "trainer.log_every_n_steps=10", "sweep.compare=false", *_ONE_THREAD,
]  # fmt: skip
_AGENT = [
    f"experiment={AGENT}", "data.learning_starts=1000", "data.env_steps_per_epoch=2000", "data.val_episodes=5",
    "data.total_env_steps=100000000", *_ONE_THREAD,
]  # fmt: skip
_IMAGES = [f"experiment={IMAGES}", "data.download=false", "trainer.max_epochs=2", *_ONE_THREAD]


@dataclass(frozen=True)
class Store:
    """A folder with a store of runs."""

    folder: Path

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")

    def runs(self, experiment: str) -> list[Run]:
        """The runs of an experiment, oldest first."""
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            return []
        return list(self.client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))

    def sweep(self, experiment: str, name: str) -> tuple[Run, list[Run]]:
        """A sweep's own run, and its runs, oldest first."""
        runs = self.runs(experiment)
        [parent] = [run for run in runs if run.data.tags.get("trilab.kind") == "sweep" and run.info.run_name == name]
        return parent, [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]


@dataclass(frozen=True)
class Dashboard:
    """`trilab ui` while it serves.

    Args:
        address: of the server.
        pages: the address of its runs by experiment, as it is printed.
        process: of the command.
    """

    address: str
    pages: Mapping[str, str]
    process: "subprocess.Popen[str]"


def fill(folder: Path, data: Path) -> Store:
    """Makes the runs: a sweep, one on images, and one that is stopped.

    Args:
        folder: of the store.
        data: folder of data sets.
    """
    store = Store(folder)
    for arguments in (_SWEEP, _IMAGES):
        trilab(store, data, "train", *arguments)
    train_until(store, data, _AGENT, AGENT, "val/return_mean", 3)
    return store


def trilab(store: Store, data: Path, *arguments: str) -> None:
    """Runs a command of trilab on a store, to its end.

    Args:
        store: where its runs go.
        data: folder of data sets.
        arguments: of the command.
    """
    done = warm.run(*arguments, cwd=store.folder, env=_environment(store.folder, data))
    if done.returncode:
        raise RuntimeError(f"trilab {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def train_until(store: Store, data: Path, arguments: Sequence[str], experiment: str, metric: str, points: int) -> None:
    """Trains until a metric has so many points in the store, and stops the run by SIGTERM.

    Args:
        store: where the run goes.
        data: folder of data sets.
        arguments: of `trilab train`.
        experiment: that the run is in; the only one there.
        metric: that is waited for.
        points: of it.
    """
    process = warm.Trilab(
        "train", *arguments, cwd=store.folder, env=_environment(store.folder, data), stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 300
        while not any(
            len(store.client.get_metric_history(run.info.run_id, metric)) >= points for run in store.runs(experiment)
        ):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{experiment} did not report {metric} {points} times")
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def served(store: Store) -> Iterator[Dashboard]:
    """`trilab ui` on a store; Ctrl-C ends it."""
    environment = {**_environment(store.folder, store.folder), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "trilab", "ui"],
        cwd=store.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C stops it" not in said:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"trilab ui ended: {said}")
            said += line
        [address] = re.findall(r"^ +(http://127\.0\.0\.1:\d+)$", said, re.M)
        pages = dict(re.findall(r"^ +(\S+) +(http://\S+/runs\S*)$", said, re.M))
        yield Dashboard(address, pages, process)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=120)
        finally:
            process.kill()


def _environment(folder: Path, data: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return {**kept, "TRILAB_DATA_DIR": str(data), "TRILAB_SPOOL": str(folder / "spool")}
