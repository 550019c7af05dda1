"""What a model needs to know of a table of rows to score."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TableSpec:
    """Categorical fields, each with ids of its own from 0, and dense features.

    A batch is `(ids, dense, labels)`: int64 (rows, fields), float32 (rows, dense) and float32 (rows,) of 0 and 1.

    Where candidates are ranked, a batch of validation or test has a candidate axis: `(users, candidates, fields)`,
    `(users, candidates, dense)`, and int8 labels `(users, candidates)`: 1 relevant, 0 not, -1 not to be ranked.
    """

    cardinalities: tuple[int, ...]  # ids of each categorical field
    dense: int  # number of dense features
    fields: tuple[str, ...] = ()  # names of the categorical fields; empty where they have none
    dense_names: tuple[str, ...] = ()  # names of the dense features, likewise
    user: int | None = None  # which field is the user
    item: int | None = None  # which field is the item
    group: int | None = None  # the field by whose ids the grouped AUC is taken
    cutoffs: tuple[int, ...] = (10,)  # K of the metrics at K, where candidates are ranked

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Name and dtype of each column of a row, the label last."""
        ids = self.fields or tuple(f"field_{number}" for number in range(len(self.cardinalities)))
        dense = self.dense_names or tuple(f"dense_{number}" for number in range(self.dense))
        return (*((name, "int64") for name in ids), *((name, "float32") for name in dense), ("label", "float32"))
