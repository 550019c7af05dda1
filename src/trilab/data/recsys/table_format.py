"""What there is to know of a table of clicks before it is read: files, columns, and what to make of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trilab.data.recsys.transforms import Kind
from trilab.errors import UserError, nearest


@dataclass(frozen=True)
class TableFormat:
    """How to read a file, and which of its columns are what.

    Args:
        format: of the files.
        delimiter: between two columns of a CSV file.
        quote: around a text that may hold delimiters and line ends; empty where quotes mean nothing.
        header: whether a CSV file's first line has the names of its columns.
        columns: those names where it has none.
        encoding: of a CSV file.
        missing: texts that mean a missing value, besides the empty one.
        label: the column with 0 and 1.
        dense: numeric columns.
        categorical: the columns whose values get ids.
    """

    format: Literal["csv", "parquet"]
    delimiter: str
    quote: str
    header: bool
    columns: tuple[str, ...] | None
    encoding: Literal["utf-8", "latin-1", "utf-16"]
    missing: tuple[str, ...]
    label: str
    dense: tuple[str, ...]
    categorical: tuple[str, ...]

    @property
    def used(self) -> tuple[str, ...]:
        return self.label, *self.dense, *self.categorical


@dataclass(frozen=True)
class TableSettings:
    """All that the result depends on.

    Args:
        form: of the files.
        train: files to train on.
        val: files to validate on; none to split rows off those to train on.
        test: the same of the test.
        split: which rows are split off: random ones, or the last (of those, the last are the test's).
        val_fraction: of the rows of the training files.
        test_fraction: likewise.
        split_seed: of a random split.
        min_count: a value that training has less often shares its id with all such.
        dense_transform: of the numeric columns.
        buckets: at most so many of a numeric column, if it is bucketised.
        block_rows: rows of a block of the result.
    """

    form: TableFormat
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    test: tuple[Path, ...]
    split: Literal["random", "in_order"]
    val_fraction: float
    test_fraction: float
    split_seed: int
    min_count: int
    dense_transform: Kind
    buckets: int
    block_rows: int

    @property
    def files(self) -> tuple[Path, ...]:
        return *self.train, *self.val, *self.test

    def as_dict(self) -> dict[str, Any]:
        """As plain values, which JSON can hold."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return plain


def one_line(error: object) -> str:
    """The text of another library's error, on one line."""
    return " ".join(str(error).split())


def check_columns(file: Path, names: Sequence[str], form: TableFormat) -> None:
    """Raises UserError where a file lacks a column that is needed, or has it twice."""
    for name in form.used:
        if name not in names:
            raise UserError(f"{file}: there is no column '{name}'.{nearest(name, names)} Columns: {', '.join(names)}.")
        if names.count(name) > 1:
            raise UserError(f"{file}: two columns are named '{name}'.")
