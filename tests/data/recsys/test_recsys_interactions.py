import itertools
from collections import Counter

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F

from trilab.data.recsys.interactions import (
    Interactions,
    Log,
    RankingData,
    SideFeatures,
    leave_one_out,
    recency_weights,
)
from trilab.data.recsys.negatives import NegativeBatches
from trilab.data.recsys.ranking import ranking_metrics
from trilab.errors import UserError

USERS, ITEMS = 30, 60


def random_log(seed: int = 0, per_user: int = 12) -> Log:
    """Distinct pairs at distinct times."""
    rng = np.random.default_rng(seed)
    items = np.concatenate([rng.permutation(ITEMS)[:per_user] for _ in range(USERS)])
    users = np.repeat(np.arange(USERS), per_user)
    order = rng.permutation(len(users))
    return Log(users[order], items[order], rng.permutation(len(users)))


def split(log: Log, **options) -> Interactions:
    return leave_one_out(log, USERS, ITEMS, **{"validation": True, "negatives": 20, "seed": 3, **options})


def log_of(*rows: tuple[int, int, int]) -> Log:
    return Log(*(np.array(column) for column in zip(*rows, strict=True)))


def train_pairs(data: Interactions) -> list[tuple[int, int]]:
    return [divmod(key, data.items) for key in data.train.tolist()]


def test_the_latest_is_the_test_and_the_one_before_the_validation():
    log = random_log()
    data = split(log)
    rows = sorted(zip(log.times.tolist(), log.users.tolist(), log.items.tolist(), strict=True))
    by_user = {user: [item for _, u, item in rows if u == user] for user in range(USERS)}
    assert data.test.users.tolist() == data.val.users.tolist() == list(range(USERS))
    assert data.test.candidates[:, 0].tolist() == [by_user[user][-1] for user in range(USERS)]
    assert data.val.candidates[:, 0].tolist() == [by_user[user][-2] for user in range(USERS)]
    assert train_pairs(data) == sorted((user, item) for user in by_user for item in by_user[user][:-2])


def test_candidates_are_distinct_and_none_that_the_user_has():
    log = random_log()
    data = split(log)
    for held in (data.val, data.test):
        assert held.candidates.shape == (USERS, 21)
        for user, (_, *negatives) in zip(held.users.tolist(), held.candidates.tolist(), strict=True):
            assert len(set(negatives)) == 20
            assert not set(negatives) & set(log.items[log.users == user].tolist())
    assert not torch.equal(data.val.candidates[:, 1:], data.test.candidates[:, 1:])


def test_a_seed_always_gives_the_same_candidates_with_or_without_validation():
    log = random_log()
    first, second, without, other = split(log), split(log), split(log, validation=False), split(log, seed=4)
    assert torch.equal(first.val.candidates, second.val.candidates)
    assert torch.equal(first.test.candidates, second.test.candidates)
    assert torch.equal(first.test.candidates, without.test.candidates)
    assert not torch.equal(first.test.candidates, other.test.candidates)
    assert without.val is None
    assert len(without.train) == len(first.train) + USERS


def test_nobodys_last_interaction_is_held_out():
    data = leave_one_out(
        log_of((0, 5, 1), (1, 6, 1), (1, 7, 2), (2, 1, 9), (2, 2, 8), (2, 3, 7)),
        USERS, ITEMS, validation=True, negatives=3, seed=0,
    )  # fmt: skip
    assert train_pairs(data) == [(0, 5), (1, 6), (2, 3)]
    assert (data.test.users.tolist(), data.test.candidates[:, 0].tolist()) == ([1, 2], [7, 1])
    assert (data.val.users.tolist(), data.val.candidates[:, 0].tolist()) == ([2], [2])
    with pytest.raises(
        UserError, match="no user has two interactions or more, so that there is none to hold out for t"
    ):
        leave_one_out(log_of((0, 5, 1), (1, 6, 1)), USERS, ITEMS, validation=True, negatives=3, seed=0)


def test_a_pair_that_stands_twice_counts_once_at_its_later_time():
    log = log_of((0, 1, 9), (0, 2, 5), (0, 3, 6), (0, 1, 1))
    data = leave_one_out(log, 1, 9, validation=False, negatives=2, seed=0)
    assert train_pairs(data) == [(0, 2), (0, 3)]
    assert data.test.candidates[0, 0] == 1


def test_interactions_at_the_same_time_are_equally_likely_to_be_held_out():
    log = log_of((0, 1, 5), (0, 2, 7), (0, 3, 7), (0, 4, 7))
    chosen = Counter(
        tuple(int(held.candidates[0, 0]) for held in (data.test, data.val))
        for data in (leave_one_out(log, 1, 9, validation=True, negatives=2, seed=seed) for seed in range(600))
    )
    assert set(chosen) == {(a, b) for a in (2, 3, 4) for b in (2, 3, 4) if a != b}
    assert sum((count - 100) ** 2 / 100 for count in chosen.values()) < 20.5  # 5 degrees of freedom, p = 0.001


def test_a_user_who_lacks_too_few_items_is_named():
    log = log_of(*((0, item, item) for item in range(6)), (1, 0, 0), (1, 1, 1))
    message = r"^data\.eval_negatives=5: user 0 has all but 4 of the 10 items\. Choose at most 4\.$"
    with pytest.raises(UserError, match=message):
        leave_one_out(log, 2, 10, validation=False, negatives=5, seed=0)
    data = leave_one_out(log, 2, 10, validation=False, negatives=4, seed=0)
    assert sorted(data.test.candidates[0].tolist()) == [5, 6, 7, 8, 9]


def naive_weights(log: Log, half: float) -> list[float]:
    rows = list(zip(log.users.tolist(), log.times.tolist(), strict=True))
    raw = []
    for place, (user, time) in enumerate(rows):
        others = [at for other, (owner, at) in enumerate(rows) if owner == user and other != place]
        later = sum(at > time for at in others) + sum(at == time for at in others) / 2
        raw.append(1 / (1 + later / half))
    sums, counts = Counter(), Counter(log.users.tolist())
    for (user, _), weight in zip(rows, raw, strict=True):
        sums[user] += weight
    return [weight * counts[user] / sums[user] for (user, _), weight in zip(rows, raw, strict=True)]


def test_recency_weighs_by_the_later_interactions_of_the_same_user():
    rng = np.random.default_rng(5)
    users = rng.permutation(np.repeat([0, 2, 3, 7], [1, 9, 30, 14]))
    times = rng.integers(0, 12, len(users))  # many at the same time
    times[users == 7] = 0
    log = Log(users, np.arange(len(users)), times)
    for half in (0.5, 4.0):
        weights = recency_weights(log, half)
        assert weights == pytest.approx(naive_weights(log, half))
        assert weights[users == 7] == pytest.approx(np.ones(14))  # no order, no preference
    latest, earlier = recency_weights(log_of((0, 1, 5), (0, 2, 3), (1, 1, 1)), half=1)[:2]
    assert (latest, earlier) == pytest.approx((4 / 3, 2 / 3))


def test_weights_belong_to_the_pairs_trained_on_and_do_not_see_what_is_held_out():
    log = random_log()
    assert split(log).weights is None
    data = split(log, recency=3.0)
    assert torch.equal(data.train, split(log).train)
    kept = set(train_pairs(data))
    rest = log.take(np.array([pair in kept for pair in zip(log.users.tolist(), log.items.tolist(), strict=True)]))
    assert len(rest.users) == len(log.users) - 2 * USERS
    place = (rest.users * ITEMS + rest.items).argsort()
    assert data.weights.numpy() == pytest.approx(np.array(naive_weights(rest, 3.0))[place])


def pairs(users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([users, items], 1), torch.zeros(len(users), 0)


def test_recency_finds_what_users_have_turned_to():
    """Each had twenty of one half of the items, and has had seven of the other since, the last of which is the test."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        first = user % 2 * 30
        before, since = first + rng.permutation(30)[:20], (first + 30) % 60 + rng.permutation(30)[:7]
        rows += [(user, item, time) for time, item in enumerate([*before, *since])]

    def hit_rate(recency: float | None) -> float:
        data = leave_one_out(log_of(*rows), USERS, ITEMS, validation=False, negatives=20, seed=0, recency=recency)
        batches = NegativeBatches(data.train, USERS, ITEMS, 1, pairs, 500, torch.device("cpu"), weights=data.weights)
        ids, _, labels = (torch.cat(column) for column in zip(*itertools.chain(*[batches] * 20), strict=True))
        # A model that knows of each user how much of what it is trained on is of which half.
        share = torch.zeros(USERS, 2).index_put_((ids[:, 0], ids[:, 1] // 30), labels, accumulate=True)
        scores = share[data.test.users[:, None], data.test.candidates // 30]
        own = torch.zeros_like(scores)
        own[:, 0] = 1
        return float(ranking_metrics(scores, own, [10])["hit_rate_10"].mean())

    # Of the twenty negatives some fourteen are of the half that is right, and tie with the one to be found.
    assert hit_rate(recency=1.0) > 0.6
    assert hit_rate(recency=None) < 0.35


class Films(RankingData):
    """With a side field of users, one of items, and two dense features of items."""

    def __init__(self, **options) -> None:
        sizes = {"batch_size": 100, "eval_batch_size": 250, "seed": 1}
        super().__init__(**{"train_negatives": 4, "full_ranking": True, "cutoffs": [5, 10], **sizes, **options})

    def load(self):
        ages = SideFeatures((torch.arange(USERS) % 3).unsqueeze(1), torch.empty(USERS, 0), (3,), ("age",))
        dense = torch.stack([torch.arange(ITEMS).float(), -torch.arange(ITEMS).float()], 1)
        years = SideFeatures((torch.arange(ITEMS) // 10).unsqueeze(1), dense, (6,), ("year",), ("plus", "minus"))
        return split(random_log()), ages, years


class Scores(pl.LightningModule):
    """A factorization that notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(USERS, 4), nn.Embedding(ITEMS, 4)
        self.trained: dict[int, list[list[int]]] = {}
        self.evaluated: dict[str, list[torch.Tensor]] = {}

    def forward(self, ids: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return (self.users(ids[..., 0]) * self.items(ids[..., 1])).sum(-1)

    def training_step(self, batch, batch_idx):
        ids, dense, labels = batch
        self.trained.setdefault(self.current_epoch, []).append(ids[:, 1].tolist())
        return F.binary_cross_entropy_with_logits(self(ids, dense), labels)

    def _note(self, name: str, batch) -> None:
        ids, dense, labels = batch
        assert self(ids, dense).shape == labels.shape
        self.evaluated.setdefault(name, []).append(labels)

    def validation_step(self, batch, batch_idx):
        self._note(f"val{self.trainer.val_dataloaders.name}", batch)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self._note(f"test{self.trainer.test_dataloaders[dataloader_idx].name}", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(**options) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**{"max_epochs": 2, "num_sanity_val_steps": 0, "enable_checkpointing": False, **quiet, **options})


def test_rows_hold_user_item_and_what_is_known_of_both():
    data = Films()
    data.setup("fit")
    spec = data.spec
    assert (spec.cardinalities, spec.fields) == ((USERS, ITEMS, 3, 6), ("user", "item", "age", "year"))
    assert (spec.dense, spec.dense_names) == (2, ("plus", "minus"))
    assert (spec.user, spec.item, spec.group, spec.cutoffs) == (0, 1, 0, (5, 10))
    for ids, dense, _ in (next(iter(data.train_dataloader())), *map(next, map(iter, data.test_dataloader()))):
        assert torch.equal(ids[..., 2], ids[..., 0] % 3)
        assert torch.equal(ids[..., 3], ids[..., 1] // 10)
        assert torch.equal(dense, torch.stack([ids[..., 1].float(), -ids[..., 1].float()], -1))


def test_lightning_trains_on_new_negatives_each_epoch_and_tests_both_ways():
    model, data = Scores(), Films()
    fitted = trainer()
    fitted.fit(model, datamodule=data)
    rows = USERS * 10 * 5
    assert [sum(map(len, batches)) for batches in model.trained.values()] == [rows, rows]
    assert model.trained[0] != model.trained[1]
    fitted.test(model, datamodule=data, verbose=False)
    assert sorted(model.evaluated) == ["test", "testfull", "val"]
    labels = {name: torch.cat(parts) for name, parts in model.evaluated.items()}
    assert labels["test"].shape == (USERS, 21)
    assert labels["testfull"].shape == (USERS, ITEMS)
    # Of 60 items a user has 10 in training and one in validation, which are not ranked.
    assert (labels["testfull"] == -1).sum(1).tolist() == [11] * USERS
    assert (labels["testfull"] == 1).sum(1).tolist() == [1] * USERS


def test_overfit_batches_means_the_same_batches_in_each_epoch():
    model = Scores()
    trainer(overfit_batches=3).fit(model, datamodule=Films())
    assert [len(batches) for batches in model.trained.values()] == [3, 3]
    assert model.trained[0] == model.trained[1]


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")  # as asked for
def test_without_validation_lightning_trains_without_one():
    class NoValidation(Films):
        def load(self):
            return split(random_log(), validation=False), *super().load()[1:]

    model = Scores()
    trainer(max_epochs=1).fit(model, datamodule=NoValidation())
    assert sum(map(len, model.trained[0])) == USERS * 11 * 5
    assert not model.evaluated


def test_a_training_that_was_interrupted_sees_the_batches_it_would_have_seen(tmp_path):
    whole = Scores()
    trainer().fit(whole, datamodule=Films())
    first = Scores()
    save = ModelCheckpoint(tmp_path, filename="part", every_n_train_steps=4, save_top_k=1, monitor=None)
    trainer(max_steps=4, enable_checkpointing=True, callbacks=[save]).fit(first, datamodule=Films())
    rest = Scores()
    trainer().fit(rest, datamodule=Films(), ckpt_path=tmp_path / "part.ckpt", weights_only=True)
    assert first.trained[0] + rest.trained[0] == whole.trained[0]
    assert rest.trained[1] == whole.trained[1]


def test_the_reference_ranks_by_how_often_training_has_an_item():
    data = Films()
    data.setup("fit")
    counts = Counter(data.interactions.train.remainder(data.interactions.items).tolist())
    hits = []
    for own, *among in data.interactions.test.candidates.tolist():
        above = sum(counts[item] > counts[own] for item in among)
        tied = 1 + sum(counts[item] == counts[own] for item in among)
        hits.append(min(1.0, max(0.0, (data.cutoffs[0] - above) / tied)))
    first = data.cutoffs[0]
    assert data.reference[f"test/popularity_hit_rate_{first}"] == pytest.approx(np.mean(hits))
    assert f"test/popularity_ndcg_{first}" in data.reference
