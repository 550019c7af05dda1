"""One run over several devices: two processes on the CPU against one, at the same global batch."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch
import warm
from conftest import SMALL
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

from trilab.cli import main
from trilab.collectives import all_rows, ranks, summed
from trilab.config.compose import compose
from trilab.config.job import Job
from trilab.data.batches import TensorBatches
from trilab.errors import ConfigError, UserError
from trilab.models.recsys import row_optimizers
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.row_optimizers import LazyAdam, RowOptimizer, RowwiseAdagrad

Runs = Callable[[], list[Run]]
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]
ALIKE = [
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "accelerator=cpu",
    "accelerator.threads=1",
    "tracking.system_metrics=false",
    "callbacks.memory_account.show=false",
]
#: The last batch of an epoch is not full: 2000 = 31 x 64 + 16 rows, 260 = 4 x 64 + 4 images.
CLICKS = ["experiment=recsys/deepfm_synthetic", *SMALL["recsys"], "trainer.gradient_clip_val=1.0"]
IMAGES = [
    "experiment=vision/mnist_cnn",
    "data=vision/fake",
    "data.channels=1",
    "data.height=28",
    "data.width=28",
    "data.train_images=360",
    "data.validation=100",
    "data.test_images=101",
    "data.batch_size=64",
    "data.eval_batch_size=50",
    "data.augment.crop=2",
    "data.augment.flip=random",
]


def trilab(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    return int(raised.value.code or 0)


def history(run: Run, name: str) -> list[float]:
    points = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db").get_metric_history(run.info.run_id, name)
    return [point.value for point in sorted(points, key=lambda point: (point.step, point.timestamp))]


# Against one process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "metrics"),
    [
        ([*CLICKS, "trainer.accumulate_grad_batches=3"], ["train/loss", "val/auc", "val/logloss", "test/auc"]),
        pytest.param(  # the whole table is dense
            [*CLICKS, "optimizer=adam"], ["train/loss", "val/auc", "test/auc"], marks=pytest.mark.exhaustive
        ),
        (IMAGES, ["train/loss", "train/accuracy", "val/loss", "val/accuracy", "test/loss", "test/accuracy"]),
    ],
    ids=["by row", "dense", "cnn"],
)
def test_two_processes_train_as_one(overrides: list[str], metrics: list[str], runs: Runs, workdir: Path) -> None:
    assert trilab("train", *overrides, *ALIKE) == 0
    assert trilab("train", *overrides, *ALIKE, *TWO) == 0
    one, two = runs()
    assert one.info.status == two.info.status == "FINISHED"
    for name in metrics:
        expected, got = history(one, name), history(two, name)
        assert len(got) == len(expected) > 0
        assert got == pytest.approx(expected, rel=2e-4, abs=2e-5), name
    losses = history(two, "train/loss")
    assert sum(losses[-5:]) < sum(losses[:5])  # and it learns
    assert one.data.metrics["precision/optimizer_steps"] == two.data.metrics["precision/optimizer_steps"]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_ranking_metrics_are_of_all_users(runs: Runs, workdir: Path) -> None:
    few = ["experiment=recsys/mf_movielens_100k", "data.batch_size=8", "trainer.limit_train_batches=4", *ALIKE]
    assert trilab("train", *few) == 0
    assert trilab("train", *few, *TWO) == 0
    one, two = runs()
    names = [name for name in one.data.metrics if name.startswith("test/")]
    assert any("ndcg" in name for name in names)
    for name in names:
        assert two.data.metrics[name] == pytest.approx(one.data.metrics[name], rel=1e-4), name


@pytest.mark.slow
def test_a_sweep_of_shared_runs_has_a_run_and_a_folder_for_each(runs: Runs, workdir: Path) -> None:
    small = ["trainer.limit_train_batches=3", *ALIKE]
    assert trilab("train", "-m", *CLICKS, *small, *TWO, "seed=1,2", "sweep.name=pair", "sweep.compare=false") == 0
    parent, *children = sorted(runs(), key=lambda run: run.data.tags.get("trilab.kind") != "sweep")
    assert parent.info.status == "FINISHED"
    assert [run.info.status for run in children] == ["FINISHED", "FINISHED"]
    assert {run.data.params["seed"] for run in children} == {"1", "2"}
    folders = sorted((workdir / "outputs" / "sweeps" / "pair").iterdir())
    assert [folder.name for folder in folders if folder.is_dir()] == ["0", "1"]
    assert (folders[0] / "checkpoints" / "best.ckpt").is_file()
    assert warm.children() == []


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_shared_run_is_gone_on_with(runs: Runs, workdir: Path) -> None:
    """From a checkpoint of one process, by one and by two."""
    whole = [*CLICKS, *ALIKE, "scheduler=constant"]
    assert trilab("train", *whole, "trainer.max_epochs=1") == 0
    [last] = workdir.glob("outputs/**/last.ckpt")
    assert trilab("train", *whole, f"resume={last}") == 0
    assert trilab("train", *whole, f"resume={last}", *TWO) == 0
    _, one, two = runs()
    assert len(history(two, "val/auc")) == 1
    assert history(two, "train/loss") == pytest.approx(history(one, "train/loss"), rel=2e-4)
    assert history(two, "val/auc") == pytest.approx(history(one, "val/auc"), rel=2e-4)


# Ends


def start(folder: Path) -> warm.Trilab:
    return warm.Trilab("train", *CLICKS, *ALIKE, *TWO, "trainer.max_epochs=100000", cwd=folder)


def peers_of(process: warm.Trilab, runs: Runs) -> list[psutil.Process]:
    deadline = time.monotonic() + 120
    while not any("val/auc" in run.data.metrics for run in runs()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return [own for own in psutil.Process(process.pid).children() if "trilab.distributed.rank" in own.cmdline()]


@pytest.mark.slow
def test_a_stopped_run_is_killed_with_all_its_ranks(runs: Runs, workdir: Path) -> None:
    process = start(workdir)
    [peer] = peers_of(process, runs)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert [run.info.status for run in runs()] == ["KILLED"]
    assert not peer.is_running()


@pytest.mark.slow
def test_a_rank_that_dies_makes_the_run_fail_in_one_line(runs: Runs, workdir: Path) -> None:
    process = start(workdir)
    [peer] = peers_of(process, runs)
    os.kill(peer.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert output.strip().splitlines()[-1] == "trilab: rank 1 of 2 was ended by SIGKILL"
    assert "Traceback" not in output
    [run] = runs()
    assert run.info.status == "FAILED"
    assert "rank 1 of 2 was ended by SIGKILL" in run.data.tags["trilab.end"]


@pytest.mark.slow
def test_a_rank_ends_with_rank_0(runs: Runs, workdir: Path) -> None:
    process = start(workdir)
    family = peers_of(process, runs)
    process.kill()
    process.communicate()
    assert psutil.wait_procs(family, timeout=15)[1] == []


# Shares of a batch


@pytest.mark.parametrize("ranks_", [2, 3, 5])
@pytest.mark.parametrize("rows", [40, 41, 43, 47])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_ranks_rows_are_those_of_the_batch(ranks_: int, rows: int, shuffle: bool) -> None:
    numbers = (torch.arange(rows),)
    alone = [batch[0] for batch in TensorBatches(numbers, 10, shuffle=shuffle, seed=1)]
    shared = []
    for rank in range(ranks_):
        loader = TensorBatches(numbers, 10, shuffle=shuffle, seed=1)
        loader.share(rank, ranks_)
        shared.append([(batch[0], loader.share_of(number)) for number, batch in enumerate(loader)])
    assert len({len(of_rank) for of_rank in shared}) == 1
    together = [torch.cat([rows for rows, share in parts if share]) for parts in zip(*shared, strict=True)]
    if shuffle:  # training: the same steps
        assert [batch.tolist() for batch in together] == [batch.tolist() for batch in alone]
        for parts in zip(*shared, strict=True):
            assert sum(share for _, share in parts) == pytest.approx(ranks_)
            assert all(len(rows) for rows, _ in parts)
    assert torch.cat(together).tolist() == torch.cat(alone).tolist()


def test_a_rank_without_a_row_stands_in_with_the_weight_0() -> None:
    loader = TensorBatches((torch.arange(11),), 10, shuffle=True)
    loader.share(0, 2)  # of the one row of the last batch, rank 1 has it
    assert [loader.share_of(number) for number in range(2)] == [1.0, 0.0]
    assert len(list(loader)[1][0]) == 1


def test_a_set_smaller_than_the_ranks_is_refused() -> None:
    loader = TensorBatches((torch.arange(2),), 10)
    with pytest.raises(UserError, match=r"trainer\.devices=3: a batch of 2 rows cannot be shared"):
        loader.share(0, 3)


def test_weighted_shares_give_the_gradient_of_the_whole_batch() -> None:
    """The mean over ranks of the gradients of share x (mean over own rows), where shares are unequal."""
    torch.manual_seed(0)
    rows = torch.randn(7, 3, dtype=torch.float64)
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    ((rows @ weight) ** 2).mean().backward()
    assert weight.grad is not None
    expected, of_ranks = weight.grad.clone(), []
    for rank in range(3):
        loader = TensorBatches((rows,), 7)
        loader.share(rank, 3)
        [(own,)] = list(loader)
        weight.grad = None
        (loader.share_of(0) * ((own @ weight) ** 2).mean()).backward()
        of_ranks.append(weight.grad)
    torch.testing.assert_close(torch.stack(of_ranks).mean(0), expected)


# Rows of tables


@pytest.mark.parametrize("make", [partial(LazyAdam, lr=0.1), partial(RowwiseAdagrad, table_lr=0.1)])
def test_gathered_rows_are_updated_as_by_one_process(
    make: Callable[..., RowOptimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    ids, targets = torch.randint(0, 6, (3, 8, 2)), torch.randn(3, 8, 2, 4)  # three steps of eight rows

    def table() -> tuple[FusedEmbedding, RowOptimizer]:
        torch.manual_seed(1)
        made = FusedEmbedding([6, 6], [4], 1.0)
        optimizer = make(made.parameters())
        optimizer.bind([made])
        return made, optimizer

    def backward(own: FusedEmbedding, step: int, rows: slice) -> None:
        ((own(ids[step, rows]) - targets[step, rows]) ** 2).mean().backward()

    (alone, one), shared = table(), [table(), table()]
    halves = [slice(0, 4), slice(4, 8)]
    monkeypatch.setattr(row_optimizers, "ranks", lambda: 2)
    for step in range(3):
        backward(alone, step, slice(0, 8))
        one.step()
        sent: dict[str, list[torch.Tensor]] = {"index": [], "grad": []}
        for (own, _), rows in zip(shared, halves, strict=True):
            backward(own, step, rows)
            [lookup] = own.lookups
            assert lookup.rows.grad is not None
            sent["index"].append(lookup.index)
            sent["grad"].append(lookup.rows.grad)
        monkeypatch.setattr(
            row_optimizers,
            "all_rows",
            lambda tensor, sent=sent: torch.cat(sent["grad" if tensor.is_floating_point() else "index"]),
        )
        for _, optimizer in shared:
            optimizer.gather_rows()
            optimizer.gather_rows()  # what is of all ranks already stays as it is
            optimizer.step()
    (first, _), (second, _) = shared
    torch.testing.assert_close(first.weight, alone.weight)
    assert torch.equal(first.weight, second.weight)


def test_one_process_is_told_its_own() -> None:
    tensor = torch.arange(6.0).view(3, 2)
    assert ranks() == 1
    assert torch.equal(all_rows(tensor), tensor)
    assert torch.equal(summed(tensor), tensor)


# What is refused, and what stays as it was


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "trainer.devices=2: an agent of rl learns on one device"),
        (["accelerator=mps", "experiment=vision/mnist_cnn"], "accelerator=mps is one device"),
        (["experiment=vision/mnist_cnn", "data.batch_size=1"], "data.batch_size=1: a batch is shared by"),
        (["experiment=vision/mnist_cnn", "trainer.strategy=fsdp"], "trainer.strategy=fsdp: expected one of auto, ddp."),
        (
            ["experiment=vision/mnist_cnn", "data=vision/image_folder", "data.root=x", "data.storage=stream"],
            "data.storage=stream",
        ),
        (["experiment=vision/mnist_cnn", "accelerator=cpu", "trainer.sync_batchnorm=true"], "between several GPUs"),
    ],
)
def test_what_cannot_be_shared_is_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose([*overrides, "trainer.devices=2"])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_run_on_one_device_keeps_the_hash_that_it_had_without_the_knobs() -> None:
    config = compose(["experiment=vision/mnist_cnn"])
    before = config.copy()
    OmegaConf.set_struct(before, False)
    del before.trainer["strategy"], before.trainer["sync_batchnorm"]
    assert Job.of(config, {}, []).hash == Job.of(before, {}, []).hash
    hashes = [Job.of(compose(["experiment=vision/mnist_cnn", *own]), {}, []).hash for own in ([], TWO)]
    assert all(one != other for one, other in pairwise(hashes))
