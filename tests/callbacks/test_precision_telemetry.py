"""Dtypes and broken gradients, counted against what the test itself broke."""

from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trilab.callbacks.precision import GradientCheck, PrecisionTelemetry, dtypes
from trilab.models.module import Module
from trilab.models.schedules import Constant
from trilab.precision import Precision


class Breaks(Module):
    """A weight whose gradient is 1, infinite or NaN as the batch says."""

    def __init__(self) -> None:
        # At a rate of 0, 0 * inf would be NaN for ever: so the weights are put back before each step.
        super().__init__(partial(torch.optim.SGD, lr=0.1), Constant())
        self.weight = nn.Parameter(torch.ones(3))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.weight.data.fill_(1.0)
        loss = (self.weight * batch).sum()
        self.observe(1, loss=loss)
        return loss


class Recorder(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.points: dict[str, list[float]] = {}

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        for name, value in metrics.items():
            if name.startswith("precision/"):
                self.points.setdefault(name, []).append(value)


def fit(batches: list[float], precision: str = "fp32", callback: PrecisionTelemetry | None = None) -> Recorder:
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        plugins=[Precision(precision, force_fp16_on_cpu=True, init_scale=8.0).on("cpu").plugin],
        max_epochs=1,
        logger=recorder,
        callbacks=[callback or PrecisionTelemetry()],
        log_every_n_steps=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    given: Any = [torch.full((3,), value) for value in batches]
    trainer.fit(Breaks(), DataLoader(given, batch_size=None))
    return recorder


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "16-mixed"])
def test_every_step_with_a_broken_gradient_counts(precision: str) -> None:
    points = fit([1.0, INF, 1.0, 1.0, NAN, INF, 1.0], precision).points
    assert points["precision/non_finite_gradients"] == [1.0, 1.0, 3.0, 3.0]  # after 2, 4, 6, and at the end
    skipped = 3 if precision == "16-mixed" else 0
    assert points["precision/skipped_steps"][-1] == skipped
    assert points["precision/optimizer_steps"][-1] == 7 - skipped
    assert ("precision/loss_scale" in points) == (precision == "16-mixed")


def test_the_count_goes_on_after_a_checkpoint() -> None:
    first = PrecisionTelemetry()
    fit([INF, 1.0], callback=first)
    second = PrecisionTelemetry()
    second.load_state_dict(first.state_dict())
    assert fit([1.0, NAN], callback=second).points["precision/non_finite_gradients"][-1] == 2.0


@pytest.mark.parametrize(
    ("precision", "name"), [("fp32", "float32"), ("bf16-mixed", "bfloat16"), ("16-mixed", "float16")]
)
def test_the_dtypes_in_effect(precision: str, name: str) -> None:
    points = fit([1.0], precision).points
    assert {own: value for own, value in points.items() if own.startswith(("precision/a", "precision/w"))} == {
        f"precision/autocast_{name}": [1.0],
        "precision/weights_float32": [1.0],
    }
    mixed = nn.ModuleList([nn.Linear(3, 1, bias=False), nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)])
    plugin = Precision(precision, force_fp16_on_cpu=True).on("cpu").plugin
    assert dtypes(mixed, plugin, "cpu") == (name, {"float32": 0.75, "bfloat16": 0.25})


def test_a_check_leaves_gradients_as_they_are_and_takes_any_kind() -> None:
    dense, half = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SGD([dense, half, table.weight, nn.Parameter(torch.ones(1))], lr=0.0)
    check = GradientCheck(torch.device("cpu"))
    check.watch(optimizer)
    dense.grad, half.grad = torch.tensor([1e-42, -0.0, 3e38, 1.1]), torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    before = dense.grad.clone()
    table(torch.tensor([1, 1])).sum().backward()
    optimizer.step()
    assert check.found == 0
    assert torch.equal(dense.grad.view(torch.int32), before.view(torch.int32))
    half.grad[0] = INF
    optimizer.step()
    table.weight.grad = table.weight.grad.coalesce() * NAN
    half.grad[0] = 1.0
    optimizer.step()
    assert check.found == 2
    check.stop()
    optimizer.step()
    assert check.found == 2
