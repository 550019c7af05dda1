"""The user's raw table files: found, and read by DuckDB into one table in a database on disk.

Reading checks everything that could be wrong with a row, so that what follows need not.
"""

import glob
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from trilab.data.recsys.columns import as_number, as_text
from trilab.data.recsys.csv_files import line_of, read_csv
from trilab.data.recsys.table_format import TableFormat, check_columns, one_line
from trilab.errors import UserError, nearest

#: Rows of a Parquet file that are read at once.
_ROWS = 1 << 17


def find(knob: str, paths: str | Sequence[str]) -> tuple[Path, ...]:
    """The files that a path, several, or patterns with `*` name, sorted within each pattern.

    Raises:
        UserError: nothing is there.
    """
    found: list[Path] = []
    for text in [paths] if isinstance(paths, str) else paths:
        path = Path(text).expanduser().absolute()
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path)))]  # noqa: PTH207
        if not matches:
            there = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else None
            hint = nearest(path.name, there) if there is not None else f" Nor is there a folder {path.parent}."
            raise UserError(f"data.{knob}={text}: there is no such file.{hint}")
        for match in matches:
            if match.is_dir():
                raise UserError(f"data.{knob}={text}: {match} is a folder. For the files in it: {match}/*.")
            if not match.stat().st_size:
                raise UserError(f"{match} is empty.")
        found += matches
    return tuple(found)


def create(database: duckdb.DuckDBPyConnection, form: TableFormat) -> None:
    """Makes the table `raw` for rows as they are read: label, d0, d1, ... (null: missing), c0, c1, ..., part."""
    dense = [f"d{number} DOUBLE" for number in range(len(form.dense))]
    categorical = [f"c{number} VARCHAR" for number in range(len(form.categorical))]
    database.execute(f"CREATE TABLE raw (label DOUBLE, {''.join(f'{c}, ' for c in dense + categorical)}part UTINYINT)")


def read(database: duckdb.DuckDBPyConnection, file: Path, form: TableFormat, part: int) -> None:
    """Appends a file's rows to `raw`, in their order.

    Raises:
        UserError: something is wrong with a row; the first of them is named.
    """
    before = rows_of(database)
    (read_csv if form.format == "csv" else _read_parquet)(database, file, form, part)
    wrong = database.execute(
        "SELECT rowid, label FROM raw WHERE rowid >= ? AND (label IS NULL OR label NOT IN (0, 1)) "
        "ORDER BY rowid LIMIT 1",
        [before],
    ).fetchall()
    if wrong:
        row, label = wrong[0][0] - before, wrong[0][1]
        shown = "is missing" if label is None else f"is {label:g}"
        raise UserError(f"{_where(file, form, row)}: the label '{form.label}' {shown}, and has to be 0 or 1.")
    for number, name in enumerate(form.dense):
        wrong = database.execute(
            f"SELECT rowid FROM raw WHERE rowid >= ? AND isinf(d{number}) ORDER BY rowid LIMIT 1", [before]
        ).fetchall()
        if wrong:
            raise UserError(f"{_where(file, form, wrong[0][0] - before)}: column '{name}' is infinite.")
    if rows_of(database) == before:
        raise UserError(f"{file} has no rows.")


def rows_of(database: duckdb.DuckDBPyConnection) -> int:
    return int(database.execute("SELECT count(*) FROM raw").fetchall()[0][0])


def _where(file: Path, form: TableFormat, row: int) -> str:
    return line_of(file, form, row) if form.format == "csv" else f"{file}, row {row + 1}"


def _read_parquet(database: duckdb.DuckDBPyConnection, file: Path, form: TableFormat, part: int) -> None:
    rows = 0
    try:
        source = pq.ParquetFile(file)
        check_columns(file, source.schema_arrow.names, form)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file} cannot be read as Parquet: {one_line(error)}") from None
    try:
        for batch in source.iter_batches(_ROWS, columns=list(form.used)):
            numbers = {
                place: pa.array(as_number(batch[name], name, form.missing), from_pandas=True)
                for place, name in (("label", form.label), *((f"d{i}", name) for i, name in enumerate(form.dense)))
            }
            texts = {f"c{i}": as_text(batch[name], name, form.missing) for i, name in enumerate(form.categorical)}
            database.register("batch", pa.table({**numbers, **texts}))
            database.execute(f"INSERT INTO raw SELECT *, {part} FROM batch")
            database.unregister("batch")
            rows += len(batch)
    except UserError as error:
        raise UserError(f"{file}, rows from {rows + 1}: {error}") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}, rows from {rows + 1}: {one_line(error)}") from None
