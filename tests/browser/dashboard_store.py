"""A store of real runs, made through the command line, and MLflow's UI on it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

ONE_THREAD = ["accelerator=cpu", "accelerator.threads=1", "tracking.system_metrics_interval_s=1"]
SWEEP = [
    "-m", "experiment=recsys/deepfm_synthetic", "sweep.name=precision", "seed=1,2,3", "precision=fp32,bf16-mixed",
    "data.train_rows=40000", "data.val_rows=10000", "data.test_rows=10000", "trainer.max_epochs=4",
    "trainer.log_every_n_steps=10", *ONE_THREAD,
]  # fmt: skip
DQN = [
    "experiment=rl/dqn_cartpole", "data.learning_starts=1000", "data.env_steps_per_epoch=4000", "data.val_episodes=10",
    "data.total_env_steps=100000000", *ONE_THREAD,
]  # fmt: skip
IMAGES = ["experiment=vision/mnist_cnn", "data.download=false", "trainer.max_epochs=2", *ONE_THREAD]


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


def fill(folder: Path, data: Path, images: list[str]) -> Store:
    """Makes the runs: a sweep, a run that is stopped, and one on images.

    Args:
        folder: of the store.
        data: folder of data sets.
        images: further overrides of the run on images.
    """
    store = Store(folder)
    environment = _environment(folder, data)
    for arguments in (SWEEP, [*IMAGES, *images]):
        subprocess.run(_trilab("train", *arguments), cwd=folder, env=environment, check=True, capture_output=True)
    process = subprocess.Popen(
        _trilab("train", *DQN), cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 180
    while not any(_points(store, run) >= 3 for run in store.runs("rl/dqn_cartpole")):
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline, "the run reported nothing"
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    return store


@contextlib.contextmanager
def served(store: Store) -> Iterator[str]:
    """The address of `trilab ui` on a store."""
    environment = _environment(store.folder, store.folder)
    process = subprocess.Popen(
        _trilab("ui"), cwd=store.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        said = ""
        while not (address := re.search(r"http://127\.0\.0\.1:\d+", said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        yield address[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def _points(store: Store, run: Run) -> int:
    return len(store.client.get_metric_history(run.info.run_id, "val/return_mean"))


def _trilab(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trilab", *arguments]


def _environment(folder: Path, data: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return {**kept, "TRILAB_DATA_DIR": str(data), "TRILAB_SPOOL": str(folder / "spool")}
