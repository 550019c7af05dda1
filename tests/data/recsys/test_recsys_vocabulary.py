"""Vocabularies against collections.Counter, row by row; ids of any size stay apart."""

import datetime
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from trilab.data.recsys.columns import as_text
from trilab.data.recsys.vocabulary import Vocabulary
from trilab.errors import UserError


def fit(values: list[str | None], min_count: int) -> Vocabulary:
    """A vocabulary by the definition: falling frequency, then the missing value, then the order of texts."""
    counted = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0] is not None, item[0] or ""))
    distinct = pa.array([value for value, _ in counted], pa.large_string())
    return Vocabulary.of_counts(distinct, np.array([count for _, count in counted]), min_count)


def column(values: list[str | None]) -> pa.Array:
    return pa.array(values, pa.large_string())


@pytest.mark.parametrize("min_count", [1, 2, 7])
def test_ids_are_those_of_a_naive_reading(min_count: int) -> None:
    rng = np.random.default_rng(0)
    draw = [None if value == 3 else f"v{value}" for value in rng.geometric(0.05, 2000).tolist()]
    train, other = draw[:1000], [*draw[1000:], "never", "v", "é"]
    vocabulary = fit(train, min_count)
    counts = Counter(train)
    kept = [value for value in vocabulary.values.to_pylist() if counts[value] >= min_count]
    assert vocabulary.cardinality == len(kept) + 2
    for values in (train, other):
        expected = [0 if v not in counts else 1 if counts[v] < min_count else 2 + kept.index(v) for v in values]
        ids = vocabulary.ids(column(values))
        assert ids.dtype == np.int64
        assert ids.tolist() == expected
    assert not (vocabulary.ids(column(train)) == 0).any()


def test_by_hand() -> None:
    vocabulary = fit(["b", "b", "a", "a", "c", None, None, None, "d"], min_count=2)
    assert vocabulary.values.to_pylist() == [None, "a", "b", "c", "d"]
    assert vocabulary.cardinality == 5  # unseen, rare, missing, a, b
    assert vocabulary.ids(column(["a", None, "b", "c", "d", "e", "A", "a "])).tolist() == [3, 2, 4, 1, 1, 0, 0, 0]


def test_a_missing_value_that_training_never_had_is_unseen() -> None:
    assert fit(["a", "b"], 1).ids(column([None, "a"])).tolist() == [0, 2]


def test_no_rows_and_no_values() -> None:
    assert fit(["a"], 1).ids(column([])).tolist() == []
    assert fit([], 1).ids(column(["a", None])).tolist() == [0, 0]
    assert fit([], 1).cardinality == 2


@pytest.mark.parametrize("base", [2**24, 2**31, 2**32, 2**53, 2**62])
def test_neighbouring_ids_of_any_size_stay_apart(base: int) -> None:
    numbers = [base - 1, base, base + 1, base + 2]
    texts = as_text(pa.array(numbers, pa.int64()), "user", [])
    assert texts.to_pylist() == [str(number) for number in numbers]
    vocabulary = fit(texts.to_pylist(), 1)
    assert sorted(vocabulary.ids(texts).tolist()) == [2, 3, 4, 5]
    assert vocabulary.ids(column([str(base + 3)])).tolist() == [0]


def test_unsigned_ids_up_to_2_to_the_64() -> None:
    assert as_text(pa.array([2**64 - 1], pa.uint64()), "user", []).to_pylist() == [str(2**64 - 1)]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["a", "", "NA", None]), ["a", None, None, None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.chunked_array([["a"], ["b"]]), ["a", "b"]),
        (pa.chunked_array([], pa.string()), []),
        (pa.array([None, None]), [None, None]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([1, -2, None], pa.int16()), ["1", "-2", None]),
        (pa.array([1.0, float("nan"), None, 3e15]), ["1", None, None, "3000000000000000"]),
        (pa.array([datetime.date(2014, 10, 21)]), ["2014-10-21"]),
    ],
    ids=["text", "dictionary", "chunks", "no chunks", "nulls", "bool", "int", "float with gaps", "date"],
)
def test_types_that_have_a_text(array: pa.Array, expected: list[str | None]) -> None:
    text = as_text(array, "x", ["NA"])
    assert text.type == pa.large_string()
    assert text.to_pylist() == expected


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (pa.array([1.0, 2.5]), "column 'x' has 2.5: a categorical column holds texts or whole numbers."),
        (pa.array([2.0**53]), "column 'x' is double, which has lost digits of ids from 2\\^53 on. Read it as text."),
        (pa.array([2.0**24], pa.float32()), "column 'x' is float, which has lost digits of ids from 2\\^24 on."),
        (pa.array([[1]]), "column 'x' is list<item: int64>: a categorical column holds texts or whole numbers."),
    ],
    ids=["fraction", "2^53", "2^24", "list"],
)
def test_types_that_do_not(array: pa.Array, said: str) -> None:
    with pytest.raises(UserError, match=said):
        as_text(array, "x", [])
