"""Fixtures that the tests of several parts share."""

import contextlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from trilab.runtime import prepare_imports

prepare_imports()  # before anything imports torchvision or Lightning

import torch  # noqa: E402
import warm  # noqa: E402
from fake_movielens import write_1m, write_100k, write_ncf  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Run  # noqa: E402

from trilab.tracking.settings import Tracking  # noqa: E402
from trilab.tracking.store import connect  # noqa: E402

# A shell starts what it puts in the background with SIGINT ignored, and nohup with SIGHUP: so would be every process
# that a test stops.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

#: A few steps of anything, without what takes time.
FEW_STEPS = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"]
#: What makes the default sizes small, by field.
SMALL = {
    "rl": ["data.learning_starts=100", "data.val_episodes=2", "data.test_episodes=2", "data.eval_envs=2"],
    "vision": ["data.batch_size=8", "data.eval_batch_size=64", "data.download=false"],
    "recsys": ["data.train_rows=2000", "data.val_rows=500", "data.test_rows=500", "data.batch_size=64"],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests first, so that no process is left with a long one when the others are done."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def small(experiment: str) -> list[str]:
    """What makes an experiment small on `fake_data`, whose MovieLens and Criteo are small by themselves."""
    field, _, name = experiment.partition("/")
    if name.startswith("cifar"):  # its files are known by their sums
        narrow = ["model.network.widths=[8,16,16]"] if name.endswith("airbench") else []
        return ["data=vision/fake", "data.batch_size=8", "data.eval_batch_size=64", *narrow]
    if name.endswith("pong"):  # a game takes thousands of steps
        return [*SMALL["rl"], "data.max_episode_steps=60", "data.replay_capacity=2000"]
    return SMALL[field] if field != "recsys" or name.endswith("synthetic") else ["data.batch_size=8"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRILAB_SPOOL", str(tmp_path / "spool"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # mlflow.set_tracking_uri of another test leaves it set


@pytest.fixture(autouse=True)
def _no_run_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails between starting a run and stopping it must not leave it at work beside the others."""
    if request.node.get_closest_marker("slow") is None:
        yield
        return
    before = set(warm.children())
    yield
    for process in set(warm.children()) - before:
        with contextlib.suppress(psutil.Error):
            if {"trilab", warm.__file__} & set(process.cmdline()):
                for one in [*process.children(recursive=True), process]:
                    one.kill()


@pytest.fixture(scope="session")
def fake_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with sets of the real formats and random content, enough for any experiment to start."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST"):
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for part, count in (("train", 5200), ("t10k", 100)):
            images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            labels = generator.integers(0, 10, count, dtype=np.uint8)
            _write_idx(raw / f"{part}-images-idx3-ubyte", images)
            _write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
    write_100k(root)
    write_1m(root)
    write_ncf(root)
    _write_criteo(root / "criteo-sample", generator)
    return root


def _write_criteo(folder: Path, generator: np.random.Generator) -> None:
    folder.mkdir()
    for part, count in (("train", 200), ("dev", 40), ("test", 40)):
        labels = np.arange(count) % 4 == 0
        numbers = generator.integers(-2, 100, (count, 13))
        values = generator.integers(0, 10, (count, 26))
        lines = [
            "\t".join([str(int(label)), *map(str, row), *(f"{value:08x}" for value in codes)])
            for label, row, codes in zip(labels, numbers, values, strict=True)
        ]
        (folder / f"criteo_{part}.txt").write_text("\n".join(lines) + "\n")


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised SQLite store; making one takes two seconds, copying it none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(Tracking("Default", uri=f"sqlite:///{path}", system_metrics=False))
    return path


@pytest.fixture
def workdir(tmp_path: Path, empty_store: Path, fake_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a store, as a user would have after a first run."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRILAB_DATA_DIR", str(fake_data))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def runs(workdir: Path) -> Callable[[], list[Run]]:
    """The runs in the store of `workdir`, oldest first."""

    def read() -> list[Run]:
        client = MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments, order_by=["attributes.start_time ASC"]))

    return read


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that TRILAB_DATA_DIR named when the tests were started."""
    folder = _REAL_DATA
    if not folder or not Path(folder).is_dir():
        pytest.skip("TRILAB_DATA_DIR does not name a folder of real data sets")
    return Path(folder).absolute()


_REAL_DATA = os.environ.get("TRILAB_DATA_DIR")
