"""Who had to do with what, held out by time; and the data module that ranks from it.

Implicit feedback: each interaction is a positive, whatever its rating was. Leave-one-out as in He et al. 2017, Neural
Collaborative Filtering, section 4.1 (https://arxiv.org/abs/1708.05031): a user's latest interaction is the test, to be
ranked among items that the user does not have.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor

from trilab.data.contents import Contents, Part, content_key
from trilab.data.recsys.negatives import CandidateBatches, CatalogueBatches, NegativeBatches, Unseen
from trilab.data.recsys.ranking import ranking_metrics
from trilab.data.recsys.spec import TableSpec
from trilab.errors import UserError

Ids = NDArray[np.int64]

# Random streams of a seed, apart from one another. Training batches have those without a spawn key.
_TIES, _VAL_NEGATIVES, _TEST_NEGATIVES = range(3)


@dataclass(frozen=True)
class Log:
    """Interactions in no particular order."""

    users: Ids  # (n,), from 0
    items: Ids  # (n,), from 0
    times: Ids  # (n,), in any unit

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Log":
        return Log(self.users[rows], self.items[rows], self.times[rows])


@dataclass(frozen=True)
class Holdout:
    """What is to be ranked for each user that has something held out."""

    users: Tensor  # (n,) int64, ascending
    candidates: Tensor  # (n, 1 + negatives) int64: the item held out, and those to rank it among

    def to(self, device: torch.device) -> "Holdout":
        return Holdout(self.users.to(device), self.candidates.to(device))


@dataclass(frozen=True)
class Interactions:
    """A log that is split."""

    users: int
    items: int
    train: Tensor  # (n,) int64 keys user * items + item, ascending and distinct
    val: Holdout | None
    test: Holdout
    weights: Tensor | None = None  # (n,) float64, how often each of `train` is trained on in an epoch; None: once


def leave_one_out(
    log: Log,
    users: int,
    items: int,
    *,
    validation: bool,
    negatives: int,
    seed: int,
    test: Holdout | None = None,
    recency: float | None = None,
) -> Interactions:
    """Holds each user's latest interaction out as the test, and the latest of what is left as the validation.

    Nobody's last interaction is held out: a user with two has no validation, one with a single one no test either.
    Where times are known of some users only, the others, all of whose interactions have one time, have no validation
    either: to rank one at random is another task, and an easier one.
    Interactions at the same time are in random order. A pair that stands twice counts once, at its later time.

    Args:
        log: all interactions; without those of the test where that is given.
        users: how many there are.
        items: how many there are.
        validation: hold out for validation too.
        negatives: to rank an item among: different ones for each user, fixed by the seed, and none that the user has in
            training, validation or test.
        seed: of the order of interactions at the same time and of the negatives.
        test: where it is published; none of its items is in the log.
        recency: weigh each interaction by how many later ones its user has (`recency_weights`); None: all alike.
    """
    ties = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_TIES,)))
    rest = _once(log, items)
    if test is None:
        latest, rest = _hold_out_latest(rest, ties, "test")
        tested = _keys(latest, items)
    else:
        tested = test.users.numpy() * items + test.candidates[:, 0].numpy()
    unseen = Unseen(torch.from_numpy(np.sort(np.concatenate([_keys(rest, items), tested]))), users, items)
    if test is None:
        test = _with_negatives(latest, unseen, negatives, seed, _TEST_NEGATIVES)
    val: Holdout | None = None
    if validation:
        latest, rest = _hold_out_latest(rest, ties, "validation", _in_order(rest))
        val = _with_negatives(latest, unseen, negatives, seed, _VAL_NEGATIVES)
    keys = _keys(rest, items)
    weights = None if recency is None else torch.from_numpy(recency_weights(rest, recency)[keys.argsort()])
    return Interactions(users, items, torch.from_numpy(np.sort(keys)), val, test, weights)


def recency_weights(log: Log, half: float) -> NDArray[np.float64]:
    """How much each interaction says of what its user does next: 1 / (1 + later / half), to a factor.

    After Ding & Li 2005, Time weight collaborative filtering (https://doi.org/10.1145/1099554.1099689), whose weights
    fall exponentially with the days that have passed. Here the later interactions are counted instead, for users come
    and go; and the fall is harmonic, for an exponential one all but forgets what most of a busy user's were.

    Args:
        log: n interactions.
        half: at so many later interactions of its user one weighs half as much as the latest.

    Returns:
        (n,), with the mean 1 over each user's. Interactions at the same time share the later ones evenly, so that those
        of a user without times weigh 1.
    """
    order = np.lexsort((log.times, log.users))
    users, times = log.users[order], log.times[order]
    new_user = np.diff(users, prepend=-1) != 0
    new_time = new_user | (np.diff(times, prepend=times[:1]) != 0)
    of_user, of_time = new_user.cumsum() - 1, new_time.cumsum() - 1  # (n,) numbers of the user, and of the user's time
    counts, places = np.bincount(of_user), np.arange(len(order))
    middle = np.bincount(of_time, places) / np.bincount(of_time)  # of the places of those at one time
    later = (counts.cumsum() - 1)[of_user] - middle[of_time]
    weights = 1 / (1 + later / half)
    mean = np.bincount(of_user, weights) / counts
    result = np.empty(len(order))
    result[order] = weights / mean[of_user]
    return result


def without_order(log: Log) -> int:
    """How many users have several interactions and a single time for them all."""
    ordered = _has_order(log)
    return int(((np.bincount(log.users, minlength=len(ordered)) > 1) & ~ordered).sum())


def _keys(log: Log, items: int) -> Ids:
    return log.users * items + log.items


def _once(log: Log, items: int) -> Log:
    keys = _keys(log, items)
    if np.diff(np.sort(keys)).all():  # ten times as fast as np.unique
        return log
    order = np.lexsort((log.times, keys))
    return log.take(order[np.diff(keys[order], append=-1) != 0])


def _in_order(log: Log) -> NDArray[np.bool_]:
    """Whether each interaction is of a user with two times or more; true of all where no user has."""
    ordered = _has_order(log)[log.users]
    return ordered if ordered.any() else np.ones_like(ordered)


def _has_order(log: Log) -> NDArray[np.bool_]:
    """(users,) whether each has two times or more."""
    users = int(log.users.max(initial=-1)) + 1
    first, last = np.full(users, np.iinfo(np.int64).max), np.full(users, np.iinfo(np.int64).min)
    np.minimum.at(first, log.users, log.times)
    np.maximum.at(last, log.users, log.times)
    return np.asarray(first < last)


def _hold_out_latest(
    log: Log, ties: np.random.Generator, name: str, eligible: NDArray[np.bool_] | None = None
) -> tuple[Log, Log]:
    """Each user's latest interaction, by user, and the rest; of a user with a single one, it stays with the rest."""
    order = np.lexsort((ties.random(len(log.users)), log.times, log.users))
    last = np.flatnonzero(np.diff(log.users[order], append=-1))  # (users with any,), where each one's latest is
    held = order[last[np.diff(last, prepend=-1) >= 2]]
    if eligible is not None:
        held = held[eligible[held]]
    if not len(held):
        raise UserError(f"no user has two interactions or more, so that there is none to hold out for {name}.")
    rest = np.ones(len(order), np.bool_)
    rest[held] = False
    return log.take(held), log.take(rest)


def _with_negatives(held: Log, unseen: Unseen, negatives: int, seed: int, stream: int) -> Holdout:
    users = torch.from_numpy(held.users)
    free = unseen.free[users]
    if int(free.min()) < negatives:
        user = int(users[free.argmin()])
        raise UserError(
            f"data.eval_negatives={negatives}: user {user} has all but {int(free.min())} of the {unseen.items:,} "
            f"items. Choose at most {int(free.min())}."
        )
    state = int(np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(1)[0])
    among = unseen.distinct(users, negatives, torch.Generator().manual_seed(state))
    return Holdout(users, torch.cat([torch.from_numpy(held.items).unsqueeze(1), among], 1))


@dataclass(frozen=True)
class SideFeatures:
    """What is known of all users, or of all items: categorical fields and dense features."""

    ids: Tensor  # (n, fields) int64
    dense: Tensor  # (n, dense) float32
    cardinalities: tuple[int, ...] = ()
    fields: tuple[str, ...] = ()
    dense_names: tuple[str, ...] = ()

    @classmethod
    def none(cls, count: int) -> "SideFeatures":
        return cls(torch.empty(count, 0, dtype=torch.int64), torch.empty(count, 0))

    def to(self, device: torch.device) -> "SideFeatures":
        return replace(self, ids=self.ids.to(device), dense=self.dense.to(device))


class RankingData(LightningDataModule):
    """Interactions and side features in memory, and their batches on the training device.

    The fields are the user, the item, the users' side fields and the items'. A subclass says what they are: `load`.

    Args:
        train_negatives: drawn for each positive, anew in each epoch.
        full_ranking: test a second time with all items as candidates, but for those that the user has in training or
            validation.
        cutoffs: each K of the metrics at K.
        batch_size: rows of a training batch, positives and negatives together.
        eval_batch_size: rows of a batch in validation and test, whole users.
        seed: of the training batches.
    """

    def __init__(
        self,
        train_negatives: int,
        full_ranking: bool,
        cutoffs: Sequence[int],
        batch_size: int,
        eval_batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.train_negatives = train_negatives
        self.full_ranking = full_ranking
        self.cutoffs = tuple(cutoffs)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self._interactions: Interactions | None = None
        self._sides: list[SideFeatures] = []  # of users and of items

    def load(self) -> tuple[Interactions, SideFeatures, SideFeatures]:
        """The interactions, and side features of users and of items."""
        raise NotImplementedError

    @property
    def interactions(self) -> Interactions:
        assert self._interactions is not None, "setup() comes first"
        return self._interactions

    @property
    def spec(self) -> TableSpec:
        users, items = self._sides
        return TableSpec(
            cardinalities=(
                self.interactions.users,
                self.interactions.items,
                *users.cardinalities,
                *items.cardinalities,
            ),
            dense=users.dense.shape[1] + items.dense.shape[1],
            fields=("user", "item", *users.fields, *items.fields),
            dense_names=(*users.dense_names, *items.dense_names),
            user=0,
            item=1,
            group=0,
            cutoffs=self.cutoffs,
        )

    @property
    def reference(self) -> dict[str, float]:
        """The test's metrics where items are ranked by how often training has them, the same for all users."""
        if self._interactions is None:
            return {}
        counts = torch.bincount(self.interactions.train % self.interactions.items, minlength=self.interactions.items)
        counts = counts.to(self._device(), torch.float32)
        ranked = [
            ranking_metrics(counts[ids[..., 1]], labels, self.cutoffs)
            for ids, _, labels in self._sampled(self.interactions.test)
        ]
        names = [f"{name}_{cutoff}" for cutoff in self.cutoffs for name in ("hit_rate", "ndcg")]
        return {f"test/popularity_{name}": float(torch.cat([part[name] for part in ranked]).mean()) for name in names}

    def setup(self, stage: str) -> None:
        if self._interactions is None:
            self._interactions, *self._sides = self.load()

    def contents(self) -> Contents:
        """Interactions that are trained on, and users for each of whom candidates are ranked."""
        data = self.interactions
        parts = {
            "train": Part(
                {"interactions": len(data.train), "users": data.users, "items": data.items}, content_key([data.train])
            )
        }
        for name, held in (("val", data.val), ("test", data.test)):
            if held is not None:
                profile = {"users": len(held.users), "candidates": held.candidates.shape[1]}
                parts[name] = Part(profile, content_key([held.users, held.candidates]))
        return Contents(parts, self.spec.columns)

    def rows(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) users and items to (n, fields) ids and (n, dense) features."""
        of_users, of_items = self._sides
        side = of_users.ids.index_select(0, users), of_items.ids.index_select(0, items)
        dense = of_users.dense.index_select(0, users), of_items.dense.index_select(0, items)
        return torch.cat([users.unsqueeze(1), items.unsqueeze(1), *side], 1), torch.cat(dense, 1)

    def train_dataloader(self) -> NegativeBatches:
        overfit = getattr(self.trainer, "overfit_batches", 0)  # means the same batches in each epoch
        data = self.interactions
        return NegativeBatches(
            data.train,
            data.users,
            data.items,
            self.train_negatives,
            self.rows,
            self.batch_size,
            self._device(),
            weights=data.weights,
            shuffle=not overfit,
            seed=self.seed,
        )

    def val_dataloader(self) -> CandidateBatches | list[CandidateBatches]:
        return self._sampled(self.interactions.val) if self.interactions.val is not None else []

    def test_dataloader(self) -> CandidateBatches | list[CandidateBatches]:
        sampled = self._sampled(self.interactions.test)
        return [sampled, self._full()] if self.full_ranking else sampled

    def transfer_batch_to_device(self, batch: object, device: torch.device, dataloader_idx: int) -> object:
        return batch  # it is there already

    def _sampled(self, held: Holdout) -> CandidateBatches:
        held = held.to(self._device())
        return CandidateBatches(held.users, held.candidates, self.rows, self.eval_batch_size)

    def _full(self) -> CatalogueBatches:
        device, data = self._device(), self.interactions
        known, test = data.train, data.test.to(device)
        if data.val is not None:
            known = torch.cat([known, data.val.users * data.items + data.val.candidates[:, 0]]).sort().values
        own = test.candidates[:, 0].contiguous()
        return CatalogueBatches(test.users, own, known.to(device), data.items, self.rows, self.eval_batch_size)

    def _device(self) -> torch.device:
        """Where batches are wanted; the side features are there from now on."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self._sides = [side.to(device) for side in self._sides]
        return device
