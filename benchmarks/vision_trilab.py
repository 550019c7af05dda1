"""trilab's side of `vision_throughput.py`: `trilab train` as a user runs it, with everything logged."""

from collections.abc import Sequence
from pathlib import Path

from vision_data import EXPERIMENT_NAME

#: The group `model`'s option for each network.
MODELS = {network: f"vision/{network}" for network in ("mlp", "mnist_cnn", "cifar_cnn")}


def command(conf: Path, folder: Path, choices: Sequence[str]) -> list[str]:
    """Python's arguments to train in a folder, the store included. `choices`: precision, threads, seed."""
    where = [f"tracking.uri=sqlite:///{folder / 'mlflow.db'}", f"paths.outputs={folder / 'outputs'}"]
    head = ["-m", "trilab", "train", f"experiment={EXPERIMENT_NAME}", "--config-dir", str(conf)]
    return [*head, "goal.threshold=null", *choices, *where]


def in_windows(warmup: int, steps: int) -> list[str]:
    """Overrides for a fit that is measured and goes on until nobody asks for more."""
    callback = {
        "_target_": "vision_windows.Windows",
        "requests": "{requests}",
        "replies": "{replies}",
        "warmup": warmup,
        "steps": steps,
    }
    windows = [f"+callbacks.windows.{key}={value}" for key, value in callback.items()]
    return ["trainer.max_epochs=-1", "test=false", *windows]


def for_epochs(epochs: int) -> list[str]:
    """Overrides for a training whose last weights are tested, as those of the others are."""
    return [f"trainer.max_epochs={epochs}", "test=true", "~callbacks.checkpoint"]


def test_accuracy(folder: Path) -> float:
    """Of the one run in a folder's store."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == EXPERIMENT_NAME]
    [run] = client.search_runs([experiment.experiment_id])
    return float(run.data.metrics["test/accuracy"])
