"""What a model needs to know of a table of clicks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TableSpec:
    """Categorical fields, each with ids of its own from 0, and dense features.

    A batch is `(ids, dense, labels)`: int64 (batch, fields), float32 (batch, dense) and float32 (batch,) of 0 and 1.
    """

    cardinalities: tuple[int, ...]  # ids of each categorical field
    dense: int  # number of dense features
