"""From raw files to a converted table: read, split, fit on the training rows, encode block by block.

DuckDB holds the rows meanwhile, in a database on disk, and sorts and counts within a stated limit of memory. Besides
it there are in memory one piece of `_PIECE` rows and the vocabularies, the texts of all distinct values.

Rows in Criteo's format on 2 cores of an AMD EPYC (`python benchmarks/recsys_conversion.py`, memory_limit_mb=2000):
1 million in 6.7 s with a peak of 1.2 GB of resident memory, 10 million in 49 s with 2.2 GB; 0.5 GB are the imports.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trilab.data.recsys.preprocessing import Preprocessing, matrix
from trilab.data.recsys.table_cache import PREPROCESSING
from trilab.data.recsys.table_files import create, read, rows_of
from trilab.data.recsys.table_format import TableSettings, one_line
from trilab.data.recsys.table_parts import Block, write_part
from trilab.data.recsys.transforms import DenseTransform, Moments, log1p, quantiles
from trilab.data.recsys.vocabulary import Vocabulary
from trilab.errors import UserError

PARTS = ("train", "val", "test")
#: Rows that are encoded, or summed up, at once.
_PIECE = 1 << 17


def convert(settings: TableSettings, folder: Path, memory_limit_mb: int) -> dict[str, int]:
    """Writes `preprocessing.arrow` and a part file each, `train.arrow` and so on, into a folder.

    Returns:
        The rows of each part.

    Raises:
        UserError: something is wrong with the files, or the limit is too low for them.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    config: dict[str, Any] = {"memory_limit": f"{memory_limit_mb}MB", "temp_directory": str(scratch)}
    try:
        with duckdb.connect(str(scratch / "raw.duckdb"), config=config) as database:
            create(database, settings.form)
            for part, files in enumerate((settings.train, settings.val, settings.test)):
                for file in files:
                    read(database, file, settings.form, part)
                if not part:
                    _split(database, settings)
            _check_parts(database)
            preprocessing = _fit(database, settings)
            (folder / PREPROCESSING).write_bytes(preprocessing.to_bytes())
            return {
                name: write_part(
                    folder / f"{name}.arrow",
                    _blocks(database, preprocessing, part, settings.block_rows),
                    fields=len(preprocessing.fields),
                    dense=len(preprocessing.dense),
                    id_type=np.dtype(np.int32 if max(preprocessing.cardinalities) < 2**31 else np.int64),
                )
                for part, name in enumerate(PARTS)
            }
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"data.memory_limit_mb={memory_limit_mb} is not enough to convert the table, or the disk of "
            f"{folder.parent} is full: {one_line(error)[:200]}"
        ) from None
    except duckdb.Error as error:
        raise UserError(f"DuckDB could not convert the table: {one_line(error)[:300]}") from None


def _split(database: duckdb.DuckDBPyConnection, settings: TableSettings) -> None:
    """Moves rows of the training files to the parts that have no files of their own."""
    val = 0.0 if settings.val else settings.val_fraction
    test = 0.0 if settings.test else settings.test_fraction
    if settings.split == "in_order":
        rows = rows_of(database)
        first_test = rows - round(rows * test)
        first_val = first_test - round(rows * val)
        database.execute(
            "UPDATE raw SET part = CASE WHEN rowid >= ? THEN 2 ELSE 1 END WHERE rowid >= ?", [first_test, first_val]
        )
        return
    # A row's part is a function of its number and the seed alone: the same on every machine, in any number of threads,
    # and whatever rows are appended later. MD5 because every version of everything computes it alike.
    below = {part: f"{min(int(share * 2**128), 2**128 - 1):032x}" for part, share in ((1, val), (2, val + test))}
    database.execute(
        "UPDATE raw SET part = CASE WHEN md5(? || ':' || rowid) < ? THEN 1 WHEN md5(? || ':' || rowid) < ? THEN 2 "
        "ELSE 0 END",
        [str(settings.split_seed), below[1], str(settings.split_seed), below[2]],
    )


def _check_parts(database: duckdb.DuckDBPyConnection) -> None:
    counts = {part: (rows, labels) for part, rows, labels in database.execute(
        "SELECT part, count(*), count(DISTINCT label) FROM raw GROUP BY part"
    ).fetchall()}  # fmt: skip
    for part, name in enumerate(PARTS):
        if part not in counts:
            raise UserError(f"no rows are left for {name}. Change data.val_fraction and data.test_fraction.")
    rows, labels = counts[0]
    if labels == 1:
        [(label,)] = database.execute("SELECT label FROM raw WHERE part = 0 LIMIT 1").fetchall()
        raise UserError(f"all {rows:,} training rows have the label {label:g}: there is nothing to tell apart.")


def _fit(database: duckdb.DuckDBPyConnection, settings: TableSettings) -> Preprocessing:
    """Vocabularies and numeric transform, from the training rows alone."""
    vocabularies = []
    for field in range(len(settings.form.categorical)):
        counts = database.sql(
            f"SELECT c{field} AS value, count(*) AS n FROM raw WHERE part = 0 GROUP BY 1 ORDER BY n DESC, 1 NULLS FIRST"
        ).to_arrow_table()
        values = counts["value"].cast(pa.large_string()).combine_chunks()
        vocabularies.append(Vocabulary.of_counts(values, counts["n"].to_numpy(), settings.min_count))
    return Preprocessing(
        categorical=settings.form.categorical,
        numeric=settings.form.dense,
        missing=settings.form.missing,
        vocabularies=tuple(vocabularies),
        transform_numeric=_fit_numeric(database, settings),
    )


def _fit_numeric(database: duckdb.DuckDBPyConnection, settings: TableSettings) -> DenseTransform:
    kind, columns = settings.dense_transform, len(settings.form.dense)
    if kind == "bucketize":
        boundaries = (_boundaries(database, column, settings.buckets) for column in range(columns))
        return DenseTransform(kind, boundaries=tuple(boundaries))
    if kind not in ("standardize", "log_standardize") or not columns:
        return DenseTransform(kind)
    moments = Moments(columns)
    for piece in _pieces(database, ", ".join(f"d{i}" for i in range(columns)), part=0):
        values = matrix([column.to_numpy() for column in piece.columns], len(piece))
        moments.add(log1p(values) if kind == "log_standardize" else values)
    return DenseTransform(kind, mean=tuple(moments.mean.tolist()), std=tuple(moments.std.tolist()))


def _boundaries(database: duckdb.DuckDBPyConnection, column: int, buckets: int) -> tuple[float, ...]:
    there = f"FROM raw WHERE part = 0 AND d{column} IS NOT NULL AND NOT isnan(d{column})"
    [(rows,)] = database.execute(f"SELECT count(*) {there}").fetchall()
    query = f"SELECT d{column} AS value, count(*) AS n {there} GROUP BY 1 ORDER BY 1"
    pieces = (
        (batch["value"].to_numpy(), batch["n"].to_numpy())
        for batch in database.sql(query).to_arrow_reader(_PIECE)
        if len(batch)
    )
    return quantiles(pieces, rows, buckets)


def _blocks(
    database: duckdb.DuckDBPyConnection, preprocessing: Preprocessing, part: int, block_rows: int
) -> Iterator[Block]:
    """The encoded rows of a part, in the order of its files."""
    dense = [f"d{i}" for i in range(len(preprocessing.numeric))]
    categorical = [f"c{i}" for i in range(len(preprocessing.categorical))]
    names = [*preprocessing.numeric, *preprocessing.categorical]
    blocks_rows = max(_PIECE // block_rows, 1) * block_rows
    for piece in _pieces(database, ", ".join(["label", *dense, *categorical]), part, blocks_rows):
        labels: NDArray[np.float32] = piece.column(0).to_numpy().astype(np.float32)
        ids, features = preprocessing.transform(piece.remove_column(0).rename_columns(names))
        for start in range(0, len(labels), block_rows):
            rows = slice(start, start + block_rows)
            yield ids[rows], features[rows], labels[rows]


def _pieces(database: duckdb.DuckDBPyConnection, columns: str, part: int, rows: int = _PIECE) -> Iterator[pa.Table]:
    """Columns of a part in pieces of as many rows each, but for the last: sums over them do not depend on threads."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in database.sql(f"SELECT {columns} FROM raw WHERE part = {part}").to_arrow_reader(rows):
        waiting.append(batch)
        count += len(batch)
        while count >= rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, rows)
            waiting, count = table.slice(rows).to_batches(), count - rows
    if count:
        yield pa.Table.from_batches(waiting)
