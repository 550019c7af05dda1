"""The data and the initial weights of `vision_throughput.py`, as trilab draws them, for all contenders alike.

    python benchmarks/vision_data.py FOLDER OVERRIDES...

writes `data.npz` (uint8 images and labels of the training part in its order, those of the test, mean, std) and
`network.pt` (the module). A batch order is a function of the seed and the epoch.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BATCH, CLASSES = 128, 10
#: trilab's experiment of one network; all that the others have must be the same.
EXPERIMENT = """# @package _global_
defaults:
  - override /data: {data}
  - override /model: {model}
  - override /optimizer: adam
  - override /scheduler: constant
goal:
  metric: accuracy
  mode: max
data:
  batch_size: {batch}
  validation: 5000
optimizer:
  lr: 1e-3
"""
LR = 1e-3
EXPERIMENT_NAME = "vision/throughput"


@dataclass(frozen=True)
class Pictures:
    """What `data.npz` holds."""

    train: np.ndarray  # (n, channels, height, width) uint8
    train_labels: np.ndarray  # (n,) int64
    test: np.ndarray
    test_labels: np.ndarray
    mean: np.ndarray  # (channels,) on the scale [0, 1]
    std: np.ndarray  # (channels,)

    @classmethod
    def read(cls, folder: Path) -> "Pictures":
        with np.load(folder / "data.npz") as found:
            return cls(**found)


def order(rows: int, seed: int, epoch: int) -> Any:
    """The order of an epoch: a permutation, int64 (rows,)."""
    import torch

    state = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
    return torch.randperm(rows, generator=torch.Generator().manual_seed(state))


def orders(rows: int, seed: int) -> Iterator[Any]:
    """Of all epochs."""
    epoch = 0
    while True:
        yield order(rows, seed, epoch)
        epoch += 1


def images_between(first: int, last: int, rows: int) -> int:
    """Images of the steps from number `first` on to before `last`, of epochs whose last batch is smaller."""

    def until(step: int) -> int:
        epochs, steps = divmod(step, -(-rows // BATCH))
        return epochs * rows + steps * BATCH

    return until(last) - until(first)


def write_experiment(folder: Path, model: str, data: str) -> None:
    """A folder for `--config-dir` that has the experiment."""
    path = folder / "experiment" / f"{EXPERIMENT_NAME}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(EXPERIMENT.format(model=model, data=data, batch=BATCH))


def write(folder: Path, overrides: Sequence[str]) -> dict[str, str]:
    """Writes both files; what the machine is and how trilab sets it up."""
    import torch

    from trilab.config.compose import compose
    from trilab.config.job import Job, build

    job = Job.of(compose([f"experiment={EXPERIMENT_NAME}", *overrides], folder / "conf"), {}, [])
    accelerator = build(job.config["accelerator"])
    accelerator.prepare()
    from trilab.lightning import assemble
    from trilab.timing import machine_settings

    data, model = assemble([job])
    parts: Any = data.parts  # type: ignore[attr-defined]
    names = {"train": parts["train"][0], "train_labels": parts["train"][1]}
    names |= {"test": parts["test"][0], "test_labels": parts["test"][1]}
    scale = {key: np.array(getattr(data, key), np.float32).reshape(-1) for key in ("mean", "std")}
    np.savez(folder / "data.npz", **{key: tensor.cpu().numpy() for key, tensor in names.items()}, **scale)
    torch.save(model.network, folder / "network.pt")
    return machine_settings(accelerator.device(), accelerator.memory_format)


if __name__ == "__main__":
    print(json.dumps(write(Path(sys.argv[1]), sys.argv[2:])))
