"""What the callbacks measure and show, on a module whose every step takes a known time by a clock of the test's own."""

import io
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import DummyLogger
from rich.console import Console
from torch import Tensor, nn

from trilab.callbacks import throughput
from trilab.callbacks.progress import Progress, progress
from trilab.callbacks.throughput import Throughput
from trilab.models.module import Module
from trilab.models.schedules import Constant

TRAIN_S, VAL_S, SAMPLES, BATCHES, EPOCHS = 2.0, 1000.0, 10, 4, 3


class Clock:
    now = 0.0

    def __call__(self, *_: object) -> float:
        return self.now


class Metronome(Module):
    """One weight; a training step takes TRAIN_S by the clock, a validation step VAL_S."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(partial(torch.optim.SGD, lr=0.1), Constant())
        self.weight = nn.Parameter(torch.ones(()))
        self.clock = clock

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        self.clock.now += TRAIN_S
        loss = self.weight**2
        self.observe(SAMPLES, loss=loss)
        return loss

    def validation_step(self, batch: int, batch_idx: int) -> None:
        self.clock.now += VAL_S
        self.report({"val/loss": self.weight.detach() ** 2})


class Recorder(DummyLogger):
    """Keeps every point: name -> [(step, value), ...]."""

    def __init__(self) -> None:
        super().__init__()
        self.points: dict[str, list[tuple[int, float]]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.points.setdefault(name, []).append((step or 0, float(value)))


def fit(clock: Clock, *callbacks: pl.Callback) -> Recorder:
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=recorder,
        callbacks=list(callbacks),
        log_every_n_steps=2,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Metronome(clock), list(range(BATCHES)), [0])
    return recorder


def test_speed_is_that_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(throughput, "_now", clock)
    points = fit(clock, Throughput()).points
    assert [value for _, value in points["perf/epoch_s"]] == [TRAIN_S * BATCHES] * EPOCHS
    assert [value for _, value in points["perf/train_samples_per_s"]] == pytest.approx([SAMPLES / TRAIN_S] * EPOCHS)
    assert [value for _, value in points["perf/step_ms"]] == pytest.approx([1000 * TRAIN_S] * EPOCHS)
    assert len(points["perf/first_batch_s"]) == len(points["perf/fit_s"]) == 1
    assert 10 < points["perf/peak_memory_mb"][0][1] < 100_000


def test_training_metrics_are_means_of_their_window_and_none_is_lost() -> None:
    points = fit(Clock()).points["train/loss"]
    weights = [0.8**step for step in range(BATCHES * EPOCHS)]  # w <- w - 0.1 * 2w
    losses = [weight**2 for weight in weights]
    windows = [sum(losses[i : i + 2]) / 2 for i in range(0, len(losses), 2)]
    assert [step for step, _ in points] == [2, 4, 6, 8, 10, 12]
    assert [value for _, value in points] == pytest.approx(windows)


def test_a_terminal_gets_a_bar_and_a_file_a_line_for_each_validation() -> None:
    shown = io.StringIO()
    bar = Progress(refresh_s=1e-9)
    bar._console = Console(file=shown, force_terminal=True, width=100)
    fit(Clock(), bar)
    assert f"epoch {EPOCHS}/{EPOCHS}" in shown.getvalue()
    assert "100%" in shown.getvalue()

    shown = io.StringIO()
    bar = Progress()
    bar._console = Console(file=shown, force_terminal=False)
    fit(Clock(), bar)
    lines = shown.getvalue().splitlines()
    assert [line.split(" · ")[0] for line in lines] == [f"epoch {number}/{EPOCHS}" for number in (1, 2, 3)]
    assert "val/loss" in lines[0]


@pytest.mark.parametrize(
    ("limits", "budget_spent", "share"),
    [
        ({"max_epochs": 4, "max_steps": -1}, 0.0, (1 + 0.5) / 4),
        ({"max_epochs": -1, "max_steps": 200}, 0.0, 0.25),
        ({"max_epochs": 4, "max_steps": 60}, 0.0, 50 / 60),  # the nearest limit decides
        ({"max_epochs": -1, "max_steps": -1}, 0.7, 0.7),
        ({"max_epochs": 1, "max_steps": -1}, 0.0, 1.0),
    ],
)
def test_progress_is_towards_the_nearest_limit(
    limits: dict[str, int], budget_spent: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = SimpleNamespace(num_training_batches=10, current_epoch=1, global_step=50, **limits)
    module = Metronome(Clock())
    monkeypatch.setattr(Metronome, "budget_spent", budget_spent)
    assert progress(trainer, module, batches_done=5) == pytest.approx(share)
