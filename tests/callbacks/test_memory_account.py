"""The memory account against bytes counted by hand, and that it changes nothing that is computed."""

import sys
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from trilab.callbacks.memory_account import MemoryAccount
from trilab.callbacks.memory_forecast import forecast_state
from trilab.config.compose import compose
from trilab.config.job import Job
from trilab.data.recsys.spec import TableSpec
from trilab.lightning import assemble
from trilab.models.module import Module
from trilab.models.recsys.deepfm import DeepFM
from trilab.models.recsys.recommender import Recommender
from trilab.models.recsys.row_optimizers import LazyAdam, RowwiseAdagrad
from trilab.models.schedules import Constant
from trilab.precision import Precision

MIB = 2**20
ROWS, WIDTH, CLASSES = 32, 64, 10
WEIGHTS = WIDTH * WIDTH + WIDTH + WIDTH * CLASSES + CLASSES
ADAM, SGD = partial(torch.optim.Adam, lr=1e-3), partial(torch.optim.SGD, lr=1e-2)


class Perceptron(Module):
    """WIDTH-WIDTH-CLASSES with ReLU."""

    def __init__(self, optimizer: Any, *extra: nn.Module) -> None:
        super().__init__(optimizer, Constant())
        self.network = nn.Sequential(nn.Linear(WIDTH, WIDTH), *extra, nn.ReLU(), nn.Linear(WIDTH, CLASSES))
        self.fail = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.fail:
            raise RuntimeError("out of memory")
        loss = F.cross_entropy(self.network(batch[0]).float(), batch[1])
        self.observe(len(batch[1]), loss=loss)
        return loss


class Recorder(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[str, float] = {}
        self.times = 0

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        own = {name: value for name, value in metrics.items() if name.startswith("memory/")}
        self.metrics.update(own)
        self.times += bool(own)


def make_trainer(*callbacks: pl.Callback, precision: str = "fp32", **settings: Any) -> tuple[pl.Trainer, Recorder]:
    recorder = Recorder()
    asked = Precision(precision, force_fp16_on_cpu=True, init_scale=settings.pop("init_scale", 1024.0))
    options: dict[str, Any] = {"max_epochs": 1, "logger": recorder, "callbacks": list(callbacks)}
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    plugins = [asked.on("cpu").plugin]
    return pl.Trainer(accelerator="cpu", plugins=plugins, **(options | quiet | settings)), recorder


def loader(batches: Any) -> DataLoader:
    return DataLoader(batches, batch_size=None)


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(ROWS, WIDTH, generator=generator), torch.randint(CLASSES, (ROWS,), generator=generator))
        for _ in range(count)
    ]


def account(module: Module, data: Any = None, **settings: Any) -> dict[str, float]:
    trainer, recorder = make_trainer(MemoryAccount(show=False), **settings)
    trainer.fit(module, loader(data or batches()))
    assert recorder.times == 1
    return {name.removeprefix("memory/"): value * MIB for name, value in recorder.metrics.items()}


LOSS_FP32 = 4 * ROWS * CLASSES + 8 * ROWS + 4  # what cross-entropy keeps: log-softmax, the labels, their total weight


@pytest.mark.parametrize(
    ("optimizer", "state"), [(ADAM, 2 * 4 * WEIGHTS + 4 * 4), (partial(SGD, momentum=0.9), 4 * WEIGHTS), (SGD, 0)]
)
def test_an_mlp_in_fp32_by_hand(optimizer: Any, state: int) -> None:
    found = account(Perceptron(optimizer))
    assert found["parameters_mb"] == found["parameters_float32_mb"] == found["parameters_forecast_mb"] == 4 * WEIGHTS
    assert found["gradients_mb"] == found["gradients_forecast_mb"] == 4 * WEIGHTS
    assert found["optimizer_state_mb"] == found["optimizer_state_forecast_mb"] == state  # Adam: 4 step counts too
    activations = 4 * (ROWS * WIDTH + ROWS * WIDTH)  # the inputs, and ReLU's output
    assert found["activations_forecast_mb"] == activations
    assert found["activations_mb"] == activations + LOSS_FP32
    assert found["activations_int64_mb"] == 8 * ROWS
    assert found["weight_copies_mb"] == found["weight_copies_forecast_mb"] == 0


@pytest.mark.parametrize(("precision", "name"), [("bf16-mixed", "bfloat16"), ("16-mixed", "float16")])
def test_an_mlp_in_16_bits_by_hand(precision: str, name: str) -> None:
    found = account(Perceptron(ADAM), precision=precision)
    assert found["parameters_float32_mb"] == found["gradients_float32_mb"] == 4 * WEIGHTS
    assert found["optimizer_state_mb"] == 2 * 4 * WEIGHTS + 4 * 4
    assert found["activations_forecast_mb"] == found[f"activations_{name}_mb"] == 2 * 2 * ROWS * WIDTH
    assert found["weight_copies_forecast_mb"] == found[f"weight_copies_{name}_mb"] == 2 * WIDTH * CLASSES


def test_steps_that_a_scaler_leaves_out_are_waited_for() -> None:
    found = account(Perceptron(ADAM), batches(20), precision="16-mixed", init_scale=2.0**30)
    assert found["optimizer_state_mb"] == found["optimizer_state_forecast_mb"] > 0


def test_accumulated_batches_are_one_step() -> None:
    found = account(Perceptron(ADAM), batches(4), accumulate_grad_batches=2)
    assert found["gradients_mb"] == 4 * WEIGHTS
    assert found["activations_mb"] == 4 * 2 * ROWS * WIDTH + LOSS_FP32  # of one batch at once


def test_nothing_that_is_computed_changes_and_later_steps_do_not_see_it() -> None:
    results = []
    for callbacks in ([], [MemoryAccount(show=False)]):
        torch.manual_seed(5)
        module = Perceptron(ADAM, nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))
        trainer, _ = make_trainer(*callbacks, max_epochs=2)
        trainer.fit(module, loader(batches()))
        assert not any(isinstance(own, MemoryAccount) for own in trainer.callbacks)
        results.append({**module.state_dict(), "next": torch.rand(3)})
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize(("kind", "per_row"), [(LazyAdam, 2 * 4 * 17), (RowwiseAdagrad, 2 * 4)])
def test_tables_that_are_trained_by_row(kind: type, per_row: int) -> None:
    torch.manual_seed(0)
    spec = TableSpec((500, 300), 3)
    module = Recommender(spec, partial(kind, lr=1e-2), Constant(), partial(DeepFM, dim=16, hidden=(8,)))
    table = 800 * 17
    rest = sum(own.numel() for own in module.parameters()) - table
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(300, (40, 2), generator=generator)
    unique = len(ids[:, 0].unique()) + len(ids[:, 1].unique())
    batch = (ids, torch.rand(40, 3, generator=generator), torch.ones(40))
    found = account(module, [batch, batch])
    assert found["parameters_mb"] == 4 * (table + rest)
    assert found["gradients_forecast_mb"] == 4 * rest
    assert found["gradients_mb"] == 4 * (rest + unique * 17)  # of the rows that the batch reads
    tensors = len(list(module.parameters())) - 1
    assert found["optimizer_state_forecast_mb"] == 800 * per_row + 2 * 4 * rest + 4 * (tensors + 1)
    assert found["optimizer_state_mb"] == found["optimizer_state_forecast_mb"]
    assert found["activations_forecast_mb"] == pytest.approx(found["activations_mb"], rel=0.2)


SMALL_AGENT = [
    "experiment=rl/double_dqn_cartpole", "data.total_env_steps=1000", "data.env_steps_per_epoch=500",
    "data.val_episodes=1", "data.learning_starts=700",
]  # fmt: skip


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_agents_that_step_by_themselves(seeds: list[int]) -> None:
    jobs = [Job.of(compose([*SMALL_AGENT, f"seed={seed}"]), {}, []) for seed in seeds]
    results = []
    for callbacks in ([], [MemoryAccount(show=False)]):
        data, module = assemble(jobs)
        trainer, recorder = make_trainer(*callbacks, max_epochs=-1, num_sanity_val_steps=0)
        trainer.fit(module, datamodule=data)
        results.append({name: own.clone() for name, own in module.state_dict().items()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    network = len(seeds) * (4 * 120 + 120 + 120 * 84 + 84 + 84 * 2 + 2)
    found = {name: value * MIB for name, value in recorder.metrics.items()}
    assert found["memory/parameters_mb"] == 2 * 4 * network  # and the target network
    assert found["memory/gradients_mb"] == found["memory/gradients_forecast_mb"] == 4 * network
    assert found["memory/optimizer_state_mb"] == found["memory/optimizer_state_forecast_mb"] == 8 * network + 6 * 4
    assert found["memory/activations_mb"] == 0  # its gradient is written out
    assert "memory/activations_forecast_mb" not in found


def test_an_optimiser_that_a_shadow_cannot_run_has_no_forecast() -> None:
    class Stubborn(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise RuntimeError

    assert forecast_state(Stubborn([nn.Parameter(torch.ones(3))], lr=1.0)) is None
    weights = [nn.Parameter(torch.ones(3, 5)), nn.Parameter(torch.ones(5), requires_grad=False)]
    real = torch.optim.RMSprop(weights, momentum=0.9)
    assert forecast_state(real) == {torch.float32: 2 * 4 * 15 + 4}
    assert not real.state
    assert torch.equal(weights[0], torch.ones(3, 5))


def test_a_table_after_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    trainer, _ = make_trainer(MemoryAccount(), precision="bf16-mixed")
    trainer.fit(Perceptron(ADAM), loader(batches()))
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    start = next(number for number, line in enumerate(lines) if line.startswith("memory, MiB"))
    assert lines[start].split() == ["memory,", "MiB", "dtype", "forecast", "in", "the", "first", "step"]
    assert lines[start + 1].split() == ["parameters", "float32", "0.02", "0.02"]
    assert [line.split()[0] for line in lines[start + 1 : start + 9]] == [
        "parameters", "gradients", "optimizer", "activations", "float32", "int64", "weight", "in",
    ]  # fmt: skip


def test_a_first_step_that_fails_leaves_its_forecast(capsys: pytest.CaptureFixture[str]) -> None:
    module = Perceptron(ADAM)
    module.fail = True
    trainer, recorder = make_trainer(MemoryAccount())
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.fit(module, loader(batches()))
    shown = capsys.readouterr().err
    assert "optimizer state  float32      0.04" in shown
    assert "activations      float32      0.02" in shown
    assert not recorder.metrics
    assert sys.stderr is not None
    weight = nn.Parameter(torch.ones(3))
    assert (weight * weight).sum().requires_grad  # the hooks are gone: this graph is like any other
