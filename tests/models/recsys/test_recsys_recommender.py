from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from trilab.data.batches import TensorBatches
from trilab.data.recsys.spec import TableSpec
from trilab.models.recsys.deepfm import DeepFM
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.recommender import Recommender
from trilab.models.recsys.row_optimizers import LazyAdam, RowwiseAdagrad
from trilab.models.schedules import Constant, Linear

SPEC = TableSpec(cardinalities=(9, 30), dense=2, user=0, item=1, group=0, cutoffs=(1, 3))
NETWORK = partial(DeepFM, dim=4, hidden=(8,), embedding_std=0.3)


class Known(nn.Module):
    """Scores an item by its first dense feature: what it ranks is known."""

    def __init__(self, spec: TableSpec) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return self.scale * dense[:, 0]


def recommender(network=NETWORK, optimizer=LazyAdam, schedule=None, **options) -> Recommender:
    torch.manual_seed(0)
    return Recommender(SPEC, partial(optimizer, lr=0.05), schedule or Constant(), network, **options)


def trainer(**options) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
             "enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0}  # fmt: skip
    return pl.Trainer(**{**quiet, **options})


def rows(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randint(0, size, (n,), generator=generator) for size in SPEC.cardinalities], 1)
    return ids, torch.randn(n, 2, generator=generator), (torch.rand(n, generator=generator) < 0.4).float()


def named(batches: TensorBatches, name: str) -> TensorBatches:
    batches.name = name  # type: ignore[attr-defined]
    return batches


def test_rankings_are_reported_by_loader_and_over_all_users():
    scores = torch.tensor([[3.0, 1, 2, 0], [0.0, 1, 2, 3], [1.0, 2, 0, 9]])  # ranks of column 0: 1, 4 and 2
    labels = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, -1]], dtype=torch.int8)  # the 9 takes no part
    ids = torch.zeros(3, 4, 2, dtype=torch.int64)
    dense = torch.stack([scores, torch.zeros(3, 4)], 2)
    loop, model = trainer(), recommender(Known)
    first = TensorBatches((ids, dense, labels), 2)
    second = named(TensorBatches((ids[:1], dense[:1], labels[:1]), 1), "full")
    loop.test(model, [first, second], verbose=False)
    expected = {
        "test/hit_rate_1": 1 / 3,
        "test/hit_rate_3": 2 / 3,
        "test/mrr": (1 + 1 / 4 + 1 / 2) / 3,
        "test/ndcg_3": (1 + 0 + 1 / torch.tensor(3.0).log2().item()) / 3,
        "test/full_hit_rate_1": 1.0,
        "test/full_mrr": 1.0,
    }
    for name, value in expected.items():
        assert model.reported[name] == pytest.approx(value), name


def test_clicks_are_reported_over_the_whole_set_and_by_group():
    model, (ids, dense, labels) = recommender(), rows(600)
    loop = trainer()
    with torch.no_grad():
        logits = model.eval()(ids, dense)
    loop.validate(model, TensorBatches((ids, dense, labels), 64), verbose=False)
    assert model.reported["val/auc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-6)
    by_user = [(ids[:, 0] == user) for user in range(9)]
    expected = sum(roc_auc_score(labels[mask], logits[mask]) * int(mask.sum()) for mask in by_user) / len(ids)
    assert model.reported["val/grouped_auc"] == pytest.approx(expected, abs=1e-6)


def test_evaluation_leaves_training_as_it_was():
    model = recommender(partial(DeepFM, dim=4, hidden=(8,), dropout=0.5))
    loop = trainer(max_epochs=1, check_val_every_n_epoch=1)
    modes = []
    model.on_train_epoch_end = lambda: modes.append(model.network.deep.training)  # type: ignore[method-assign]
    loop.fit(model, TensorBatches(rows(64), 16), TensorBatches(rows(32), 16))
    assert modes == [True]
    assert not model.network.table.lookups


@pytest.mark.parametrize("optimizer", [LazyAdam, torch.optim.Adam])
def test_the_penalty_is_the_sum_of_squares_of_what_a_row_looks_up(optimizer):
    ids, dense, labels = rows(10)
    model = recommender(optimizer=optimizer, embedding_l2=0.5)
    model.train()
    if optimizer is LazyAdam:
        model.make_optimizer(model.parameters())
    model.trainer = trainer()
    loss = model.training_step((ids, dense, labels), 0)
    plain = nn.functional.binary_cross_entropy_with_logits(model(ids, dense), labels)
    table = model.network.table.weight
    expected = sum(table[row].square().sum() for row in (ids + model.network.table.offsets).flatten()) / 10
    assert loss.item() == pytest.approx((plain + 0.5 * expected).item(), rel=1e-5)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("optimizer", [LazyAdam, RowwiseAdagrad])
def test_a_resumed_training_equals_one_that_never_stopped(optimizer, tmp_path: Path):
    def loader() -> TensorBatches:
        return TensorBatches(rows(160), 16, shuffle=True, seed=3)

    options = {"schedule": Linear(), "embedding_l2": 0.01}
    whole = recommender(optimizer=optimizer, **options)
    trainer(max_epochs=4).fit(whole, loader())

    first = recommender(optimizer=optimizer, **options)
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=15, save_top_k=-1)
    trainer(max_epochs=4, enable_checkpointing=True, callbacks=[checkpoint]).fit(first, loader())
    middle = sorted(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)[0]
    state = torch.load(middle, weights_only=True)["optimizer_states"][0]["state"]
    assert any("exp_avg" in each or "sum" in each for each in state.values())

    second = recommender(optimizer=optimizer, **options)
    trainer(max_epochs=4).fit(second, loader(), ckpt_path=middle, weights_only=True)
    assert torch.equal(weights(second), weights(whole))
    assert not torch.equal(weights(second), weights(recommender()))


@pytest.mark.parametrize("optimizer", [LazyAdam, RowwiseAdagrad])
def test_clipping_and_accumulation_work_through_lightning(optimizer):
    def run(**options) -> torch.Tensor:
        model = recommender(optimizer=partial(optimizer, eps=1e-3))
        trainer(max_epochs=1, **options).fit(model, TensorBatches(rows(64), options.pop("size", 16)))
        return weights(model)

    assert not torch.equal(run(gradient_clip_val=1e-3), run())
    halves = run(accumulate_grad_batches=2)
    whole = recommender(optimizer=partial(optimizer, eps=1e-3))
    trainer(max_epochs=1).fit(whole, TensorBatches(rows(64), 32))
    assert torch.allclose(halves, weights(whole), atol=1e-5)


@pytest.mark.parametrize("optimizer", [LazyAdam, RowwiseAdagrad])
def test_under_mixed_precision_tables_and_their_state_stay_in_fp32(optimizer):
    model = recommender(optimizer=optimizer)
    loop = trainer(max_epochs=1, precision="bf16-mixed")
    loop.fit(model, TensorBatches(rows(64), 16))
    table = next(module for module in model.modules() if isinstance(module, FusedEmbedding))
    state = loop.optimizers[0].state[table.weight]
    assert {value.dtype for value in [table.weight, *state.values()]} == {torch.float32}


def test_a_planted_preference_is_learned_by_rows_as_well_as_densely():
    ids, dense, _ = rows(4000)
    taste = torch.randn(9, 30, generator=torch.Generator().manual_seed(5)) * 3
    labels = (
        torch.rand(4000, generator=torch.Generator().manual_seed(6)) < taste[ids[:, 0], ids[:, 1]].sigmoid()
    ).float()
    found = {}
    for optimizer in (LazyAdam, RowwiseAdagrad, torch.optim.Adam):
        model = recommender(partial(DeepFM, dim=8, hidden=(32,), embedding_std=0.1), optimizer)
        data = TensorBatches((ids[:3000], dense[:3000], labels[:3000]), 100, shuffle=True)
        trainer(max_epochs=15).fit(model, data)
        trainer().validate(model, TensorBatches((ids[3000:], dense[3000:], labels[3000:]), 500), verbose=False)
        found[optimizer] = model.reported["val/auc"]
    assert min(found.values()) > 0.8, found
    assert max(found.values()) - min(found.values()) < 0.08, found
