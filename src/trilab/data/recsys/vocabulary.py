"""From the values of a categorical column to ids, and back to nobody else's.

Id 0 is for values that training never had, id 1 is shared by those it had too rarely, and from 2 on each value has its
own, by falling frequency. A missing value is a value like any other. Values are compared as texts, and a whole number
is its decimal digits, so that ids of any size stay apart.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

UNSEEN, RARE, FIRST = 0, 1, 2


@dataclass(frozen=True)
class Vocabulary:
    """The distinct values of a column in training, and how many of them have an id of their own.

    Args:
        values: large_string; those with an id of their own in its order, then the rare ones.
        kept: how many have an id of their own.
    """

    values: pa.Array
    kept: int

    @classmethod
    def of_counts(cls, values: pa.Array, counts: NDArray[np.int64], min_count: int) -> "Vocabulary":
        """From the distinct values, most frequent first, and how often training has each."""
        return cls(values.cast(pa.large_string()), int((counts >= min_count).sum()))

    @property
    def cardinality(self) -> int:
        return FIRST + self.kept

    def ids(self, column: pa.Array) -> NDArray[np.int64]:
        """(rows,) texts, as `columns.as_text` gives them, to (rows,) ids."""
        coded = column.dictionary_encode(null_encoding="encode")
        # Looking the vocabulary up among the rows' values, not they in it: the hash table is built of the smaller set.
        place = pc.index_in(self.values, value_set=coded.dictionary)
        known = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
        ids = np.full(len(coded.dictionary), UNSEEN, dtype=np.int64)  # of each distinct value of the rows
        ids[place.drop_null().to_numpy()] = np.where(known < self.kept, known + FIRST, RARE)
        return ids[coded.indices.to_numpy()]
