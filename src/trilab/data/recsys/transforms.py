"""Numeric columns: scaled for a model, or cut into buckets, which makes a categorical field of each.

- standardize: (x - mean) / std.
- log1p: log(1 + x), with x < 0 as 0: Naumov et al. 2019, Deep Learning Recommendation Model, section 5.1 and its code
  (https://arxiv.org/abs/1906.00091).
- log_standardize: the second, then the first.
- bucketize: the number of quantiles below x.

A missing value becomes 0, after scaling: the mean where there is one, and what DLRM's code takes. Among buckets it has
one of its own. Everything is computed in float64 and given as float32; what is fitted comes from training rows alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["none", "standardize", "log1p", "log_standardize", "bucketize"]
Array = NDArray[np.float64]
_LOGS = ("log1p", "log_standardize")


@dataclass(frozen=True)
class DenseTransform:
    """A fitted transform of all numeric columns.

    Args:
        kind: which.
        mean: of each column, after the logarithm if there is one; empty unless standardised.
        std: of each column, likewise.
        boundaries: of each column's buckets, rising; empty unless bucketised.
    """

    kind: Kind
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    boundaries: tuple[tuple[float, ...], ...] = ()

    def dense(self, values: Array) -> NDArray[np.float32]:
        """(rows, columns), NaN where missing, to dense features of the same shape; (rows, 0) of buckets."""
        if self.kind == "bucketize":
            return np.zeros((len(values), 0), dtype=np.float32)
        if self.kind in _LOGS:
            values = log1p(values)
        if self.mean:
            values = (values - np.array(self.mean)) / np.array(self.std)
        return np.nan_to_num(values, nan=0.0).astype(np.float32)

    def buckets(self, values: Array) -> NDArray[np.int64]:
        """(rows, columns) to ids: 0 where missing, else 1 + the number of boundaries below; (rows, 0) without any."""
        ids = np.zeros((len(values), len(self.boundaries)), dtype=np.int64)
        for column, boundaries in enumerate(self.boundaries):
            x = values[:, column]
            ids[:, column] = np.where(np.isnan(x), 0, 1 + np.searchsorted(np.array(boundaries), x, side="left"))
        return ids

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Ids of each bucketised column."""
        return tuple(len(boundaries) + 2 for boundaries in self.boundaries)


def log1p(values: Array) -> Array:
    """log(1 + x), with x < 0 as 0; NaN stays."""
    logs: Array = np.log1p(np.maximum(values, 0.0))
    return logs


class Moments:
    """Mean and standard deviation of columns that come in pieces, each without its NaN.

    Pieces are merged as in Chan, Golub & LeVeque 1979, equation 2.1 (http://i.stanford.edu/TR/CS-TR-79-773.html).
    """

    def __init__(self, columns: int) -> None:
        self.count = np.zeros(columns)
        self.mean = np.zeros(columns)
        self.squares = np.zeros(columns)  # sum of squared differences from the mean

    def add(self, values: Array) -> None:
        """(rows, columns)."""
        present = ~np.isnan(values)
        count = present.sum(0)
        some = np.maximum(count, 1)
        mean = np.where(present, values, 0.0).sum(0) / some
        squares = np.where(present, (values - mean) ** 2, 0.0).sum(0)
        total = np.maximum(self.count + count, 1)
        step = mean - self.mean
        self.squares += squares + step**2 * self.count * count / total
        self.mean += np.where(count > 0, step * count / total, 0.0)
        self.count += count

    @property
    def std(self) -> Array:
        """Of the whole set, not of a sample's estimate; 1 for a column that is constant or empty."""
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.where(std > 0, std, 1.0)


def quantiles(pieces: Iterable[tuple[Array, NDArray[np.int64]]], rows: int, buckets: int) -> tuple[float, ...]:
    """Boundaries of `buckets` buckets with as many rows each as ties allow; fewer where a value fills several.

    The k-th is the smallest value with at least k / buckets of the rows at or below it. The highest value is none:
    nothing of the training set would be above it.

    Args:
        pieces: the distinct values, rising, and how often each occurs, all in all `rows` times.
        rows: how many values there are.
        buckets: at most so many.
    """
    found: list[float] = []
    below, highest = 0, -np.inf
    for values, counts in pieces:
        cumulative = below + np.cumsum(counts)
        ranks = np.arange(below * buckets // rows + 1, buckets) * rows  # k * rows, against cumulative * buckets
        ranks = ranks[ranks <= cumulative[-1] * buckets]
        found += values[np.searchsorted(cumulative * buckets, ranks)].tolist()
        below, highest = int(cumulative[-1]), float(values[-1])
    return tuple(sorted({value for value in found if value < highest}))
