"""MovieLens as implicit feedback: every rating is a positive, and what a user has not rated may be a negative.

Harper & Konstan 2015, The MovieLens Datasets (https://doi.org/10.1145/2827872): 100,000 ratings of 1,682 films by 943
users, or 1,000,209 of 3,706 by 6,040, each user with 20 at least. In the protocol of He et al. 2017, Neural
Collaborative Filtering, section 4.1 (https://arxiv.org/abs/1708.05031): each user's latest rating is ranked among 99
films that the user has not rated.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from trilab.data.recsys.interactions import (
    Holdout,
    Ids,
    Interactions,
    Log,
    RankingData,
    SideFeatures,
    leave_one_out,
    without_order,
)
from trilab.data.recsys.movielens_checks import PUBLISHED_NEGATIVES, check_movielens
from trilab.data.recsys.movielens_files import NEGATIVES, TEST, TRAIN, MovieLensFiles
from trilab.data.recsys.movielens_tables import (
    AGE_GROUPS,
    CANDIDATES,
    CANDIDATES_MEAN,
    GENRES,
    ITEM_PAIR,
    OCCUPATIONS,
    RATING,
    RATING_MEANS,
    YEARS,
    check_range,
    read_items,
    read_numbers,
    read_users,
)
from trilab.errors import UserError, say
from trilab.ranges import NonNegativeInt, PositiveFloat, PositiveInt

#: What is known of users, with how many ids; in this order they become fields.
_OF_USERS = {"gender": 2, "age": len(AGE_GROUPS), "occupation": len(OCCUPATIONS)}
_USERS = {"100k": 943, "1m": 6040}
_ITEMS = {"100k": 1682, "1m": 3706}
#: Published numbers of ratings.
_RATINGS = {"u.data": 100_000, "ratings.dat": 1_000_209, TRAIN: 994_169}


class MovieLens(RankingData):
    """MovieLens 100K or 1M, leave-one-out.

    Users are the files' numbers less 1. Items of 100K likewise; those of 1M are numbered by first appearance in
    ratings.dat, as the NCF paper did.

    Args:
        dataset: which.
        split: `latest` holds each user's latest rating out; `ncf` reads the NCF paper's split of MovieLens 1M, where it
            was done, with the negatives to rank among.
        root: folder of all data sets; the files lie in `<root>/ml-100k` and `<root>/ml-1m`.
        download: fetch the files where they are missing.
        side_features: fields beside user and item: `gender`; `age`, in MovieLens 1M's seven groups; `occupation`;
            `year` of release, in steps of five; and `genres`, a dense feature of 0 or 1 for each.
        train_negatives: drawn for each positive, anew in each epoch.
        eval_negatives: to rank the item held out among.
        validation: `latest` takes each user's latest rating out of training, to choose a model by; `none` trains on all
            but the test.
        full_ranking: test a second time with all items as candidates.
        cutoffs: each K of the metrics at K.
        batch_size: rows of a training batch, positives and negatives together.
        eval_batch_size: rows of a batch in validation and test, whole users.
        seed: of the negatives, of the order of ratings at the same time and of the training batches' order.
        recency: how often a rating is trained on depends on how many of its user's are later: at so many half as often
            as the latest. None: each once in an epoch.
    """

    def __init__(
        self,
        dataset: Literal["100k", "1m"],
        split: Literal["latest", "ncf"],
        root: str,
        download: bool,
        side_features: Sequence[Literal["gender", "age", "occupation", "year", "genres"]],
        train_negatives: PositiveInt,
        eval_negatives: PositiveInt,
        validation: Literal["latest", "none"],
        full_ranking: bool,
        cutoffs: Sequence[PositiveInt],
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        seed: NonNegativeInt,
        recency: PositiveFloat | None = None,
    ) -> None:
        check_movielens(
            {
                "dataset": dataset,
                "split": split,
                "side_features": side_features,
                "eval_negatives": eval_negatives,
                "full_ranking": full_ranking,
                "cutoffs": cutoffs,
            }
        )
        super().__init__(train_negatives, full_ranking, cutoffs, batch_size, eval_batch_size, seed)
        self.dataset = dataset
        self.split = split
        self.download = download
        self.side_features = tuple(side_features)
        self.recency = recency
        self.eval_negatives = eval_negatives
        self.validation = validation
        self._files = MovieLensFiles(dataset, root)
        self._of_users = tuple(name for name in _OF_USERS if name in side_features)
        self._of_items = bool({"year", "genres"} & set(side_features))

    def prepare_data(self) -> None:
        self._files.provide(self.split, bool(self._of_users), self._of_items, self.download)

    def load(self) -> tuple[Interactions, SideFeatures, SideFeatures]:
        test: Holdout | None = None
        numbers: Ids | None = None  # what the files call each item
        users, items = _USERS[self.dataset], _ITEMS[self.dataset]
        if self.split == "ncf":
            log, test = _read_ncf(self._files.folder, users, items)
            numbers = self._ncf_items(items) if self._of_items else None
        else:
            log, numbers = _read_ratings(self._files.ratings, self.dataset)
            items = len(numbers)
        if self.recency is not None and (unordered := without_order(log)):
            say(
                f"data.recency={self.recency:g}: {unordered:,} of {users:,} users have one time for all their ratings, "
                "which are trained on alike."
            )
        interactions = leave_one_out(
            log,
            users,
            items,
            validation=self.validation == "latest",
            negatives=self.eval_negatives,
            seed=self.seed,
            test=test,
            recency=self.recency,
        )
        side = SideFeatures.none(items) if numbers is None else self._side_of_items(numbers)
        return interactions, self._side_of_users(users), side

    def _ncf_items(self, items: int) -> Ids:
        path = self._files.item_map
        if not path.is_file():
            path = self._files.ratings
            _, numbers = _read_ratings(path, "1m")
        else:
            pairs = read_numbers(path, ITEM_PAIR, 2, "NCF item and MovieID, tab-separated", header=True)
            order = pairs[:, 0].argsort()
            if not np.array_equal(pairs[order, 0], np.arange(len(pairs))):
                raise UserError(f"{path}: the NCF items are not 0 to {len(pairs) - 1}, each once.")
            numbers = pairs[order, 1]
        if len(numbers) != items:
            raise UserError(f"{path}: {len(numbers):,} films, where the NCF paper's split has {items:,}.")
        return numbers

    def _side_of_users(self, users: int) -> SideFeatures:
        if not self._of_users:
            return SideFeatures.none(users)
        columns = read_users(self._files.users, self.dataset, np.arange(1, users + 1))
        return SideFeatures(
            ids=torch.from_numpy(np.stack([columns[name] for name in self._of_users], 1)),
            dense=torch.empty(users, 0),
            cardinalities=tuple(_OF_USERS[name] for name in self._of_users),
            fields=self._of_users,
        )

    def _side_of_items(self, numbers: Ids) -> SideFeatures:
        if not self._of_items:
            return SideFeatures.none(len(numbers))
        years, flags = read_items(self._files.items, self.dataset, numbers)
        first = 0 if self.dataset == "100k" else 1  # MovieLens 1M knows no `unknown` genre
        names = [f"genre_{name.lower().replace('-', '_').replace(chr(39), '')}" for name in GENRES[first:]]
        with_year, with_genres = "year" in self.side_features, "genres" in self.side_features
        return SideFeatures(
            ids=torch.from_numpy(years).unsqueeze(1)[:, : int(with_year)],
            dense=torch.from_numpy(flags[:, first:] if with_genres else flags[:, :0]),
            cardinalities=(YEARS,) if with_year else (),
            fields=("year",) if with_year else (),
            dense_names=tuple(names) if with_genres else (),
        )


def _read_log(path: Path) -> tuple[Ids, Ids, Ids]:
    """Users, items and times as the file has them."""
    users, items, _, times = read_numbers(path, RATING, 4, RATING_MEANS).T
    published = _RATINGS.get(path.name, len(users))
    if len(users) != published:
        say(f"{path} has {len(users):,} ratings, and as published {published:,}: results will not compare.")
    return users, items, times


def _read_ratings(path: Path, dataset: str) -> tuple[Log, Ids]:
    """All ratings, and what the file calls each item."""
    users, items, times = _read_log(path)
    check_range(path, users, 1, _USERS[dataset], "user")
    if dataset == "100k":
        check_range(path, items, 1, _ITEMS[dataset], "item")
        return Log(users - 1, items - 1, times), np.arange(1, _ITEMS[dataset] + 1)
    numbers, first, place = np.unique(items, return_index=True, return_inverse=True)
    order = first.argsort()
    if len(numbers) > _ITEMS[dataset]:
        raise UserError(f"{path}: {len(numbers):,} films, where MovieLens 1M has {_ITEMS[dataset]:,}.")
    return Log(users - 1, order.argsort()[place], times), numbers[order]


def _read_ncf(folder: Path, users: int, items: int) -> tuple[Log, Holdout]:
    """The NCF paper's training ratings, and its test."""
    parts = {}
    for path in (folder / TRAIN, folder / TEST):
        log = parts[path.name] = Log(*_read_log(path))
        check_range(path, log.users, 0, users - 1, "user")
        check_range(path, log.items, 0, items - 1, "item")
    train, test = parts[TRAIN], parts[TEST]
    path = folder / NEGATIVES
    table = read_numbers(path, CANDIDATES, 2 + PUBLISHED_NEGATIVES, CANDIDATES_MEAN)
    wrong = (table[:, 1:] < 0).any(1) | (table[:, 1:] >= items).any(1)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{path}, line {row + 1}: an item that is not in 0 to {items - 1}.")
    if not np.array_equal(table[:, :2], np.stack([test.users, test.items], 1)):
        raise UserError(f"{path} is not of the same users and items, line by line, as {folder / TEST}.")
    if len(np.unique(test.users)) < len(test.users):
        raise UserError(f"{folder / TEST}: a user stands there twice, where one item is held out of each.")
    known = np.isin(table[:, :1] * items + table[:, 1:], train.users * items + train.items).any(1)
    if known.any():
        row = int(known.argmax())
        raise UserError(f"{path}, line {row + 1}: the user has one of these items in {TRAIN}, so the files do not fit.")
    order = table[:, 0].argsort()
    return train, Holdout(*(torch.from_numpy(part[order].copy()) for part in (table[:, 0], table[:, 1:])))
