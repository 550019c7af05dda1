"""Numeric transforms against scikit-learn, numpy and numbers by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest
from sklearn.preprocessing import StandardScaler

from trilab.data.recsys.columns import as_number
from trilab.data.recsys.transforms import DenseTransform, Moments, log1p, quantiles
from trilab.errors import UserError

NAN = float("nan")


def values(rows: int = 1000) -> np.ndarray:
    rng = np.random.default_rng(0)
    table = np.stack([rng.normal(1e6, 3.0, rows), rng.lognormal(size=rows), rng.integers(-3, 9, rows)], 1)
    table[rng.random(table.shape) < 0.2] = NAN
    return table


def test_log1p_by_hand() -> None:
    dense = DenseTransform("log1p").dense(np.array([[-3.0], [0.0], [1.0], [math.e - 1], [NAN]]))
    assert dense.dtype == np.float32
    assert dense[:, 0].tolist() == [0, 0, np.float32(math.log(2)), 1, 0]


def test_none_keeps_numbers_and_fills_gaps() -> None:
    assert DenseTransform("none").dense(np.array([[1.5, NAN], [-2.0, 7.0]])).tolist() == [[1.5, 0.0], [-2.0, 7.0]]


@pytest.mark.parametrize("pieces", [1, 3, 10])
@pytest.mark.parametrize("kind", ["standardize", "log_standardize"])
def test_standardize_is_sklearns(kind: str, pieces: int) -> None:
    table = values()
    moments = Moments(3)
    for piece in np.array_split(table, pieces):
        moments.add(log1p(piece) if kind == "log_standardize" else piece)
    transform = DenseTransform(kind, mean=tuple(moments.mean), std=tuple(moments.std))
    source = np.log1p(np.maximum(table, 0)) if kind == "log_standardize" else table
    scaler = StandardScaler().fit(source)  # leaves NaN out
    np.testing.assert_allclose(moments.mean, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(moments.std, scaler.scale_, rtol=1e-9)
    np.testing.assert_allclose(
        transform.dense(table), np.nan_to_num(scaler.transform(source), nan=0.0), rtol=1e-5, atol=1e-6
    )


def test_moments_of_columns_that_are_constant_or_empty() -> None:
    moments = Moments(2)
    for _ in range(2):
        moments.add(np.array([[4.0, NAN], [4.0, NAN]]))
    assert moments.mean.tolist() == [4, 0]
    assert moments.std.tolist() == [1, 1]


@pytest.mark.parametrize("buckets", [2, 3, 10, 100])
@pytest.mark.parametrize("high", [3, 40, 10_000])
def test_boundaries_are_numpys_quantiles(high: int, buckets: int) -> None:
    rng = np.random.default_rng(buckets + high)
    drawn = rng.integers(0, high, 997).astype(float)
    distinct, counts = np.unique(drawn, return_counts=True)
    cut = np.sort(rng.choice(np.arange(1, len(distinct)), 2, replace=False))
    pieces = zip(np.split(distinct, cut), np.split(counts, cut), strict=True)
    expected = np.quantile(drawn, np.arange(1, buckets) / buckets, method="inverted_cdf")
    assert quantiles(pieces, len(drawn), buckets) == tuple(sorted(set(expected[expected < drawn.max()])))


def test_boundaries_by_hand() -> None:
    def of(values: list[float], counts: list[int], buckets: int) -> tuple[float, ...]:
        return quantiles([(np.array(values), np.array(counts))], sum(counts), buckets)

    assert of([1, 2, 3, 4], [1, 1, 1, 1], 2) == (2,)
    assert of([1, 2, 3, 4], [1, 1, 1, 1], 4) == (1, 2, 3)
    assert of([0, 5], [99, 1], 10) == (0,)
    assert of([7], [10], 4) == ()
    assert quantiles([], 0, 4) == ()


def test_buckets_count_the_boundaries_below() -> None:
    transform = DenseTransform("bucketize", boundaries=((1.0, 2.5), ()))
    table = np.array([[0.0, 5.0], [1.0, NAN], [1.1, -1.0], [2.5, 0.0], [99.0, 0.0], [NAN, 0.0]])
    assert transform.buckets(table).tolist() == [[1, 1], [1, 0], [2, 1], [2, 1], [3, 1], [0, 1]]
    assert transform.cardinalities == (4, 2)
    assert transform.dense(table).shape == (6, 0)
    assert DenseTransform("none").buckets(table).shape == (6, 0)


def test_numbers_are_read_from_every_type_alike() -> None:
    expected = [1.5, NAN, -2.0]
    for array in (
        pa.array([1.5, None, -2.0]),
        pa.array([1.5, NAN, -2.0], pa.float32()),
        pa.array(["1.5", "", "-2"]),
        pa.array([" 1.50", "NA", "-2e0 "]),
    ):
        np.testing.assert_array_equal(as_number(array, "x", ["NA"]), expected)
    assert as_number(pa.array([True, False]), "x", []).tolist() == [1, 0]
    assert as_number(pa.array([2**60 + 1]), "x", []).tolist() == [float(2**60)]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (pa.array(["1", "abc"]), "column 'x' has 'abc', which is not a number"),
        (pa.array([1.0, math.inf]), "column 'x' has an infinite value"),
        (pa.array(["inf"]), "column 'x' has an infinite value"),
        (pa.array([[1]]), "column 'x' is list<item: int64>: a dense column holds numbers"),
    ],
)
def test_what_is_no_number_is_refused(array: pa.Array, said: str) -> None:
    with pytest.raises(UserError, match=said):
        as_number(array, "x", [])
