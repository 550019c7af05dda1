"""CSV files into DuckDB, and what is wrong with them in one line that names the file and the line."""

import csv
import gzip
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import duckdb

from trilab.data.recsys.table_format import TableFormat, check_columns, one_line
from trilab.errors import UserError


def read_csv(database: duckdb.DuckDBPyConnection, file: Path, form: TableFormat, part: int) -> None:
    """Appends a file's rows to the table `raw`, in their order.

    Raises:
        UserError: something is wrong with a row; the first of them is named.
    """
    names = column_names(file, form)
    check_columns(file, names, form)
    # Columns by number: DuckDB does not tell upper case from lower in names.
    places = [names.index(name) for name in form.used]
    numbers = {names.index(name) for name in (form.label, *form.dense)}
    types = {f"f{place}": "DOUBLE" if place in numbers else "VARCHAR" for place in range(len(names))}
    options = {
        "delim": form.delimiter,
        "quote": form.quote,
        "escape": form.quote,
        "header": form.header,
        "encoding": form.encoding,
        "nullstr": ["", *form.missing],
        "columns": types,
        "auto_detect": False,
        "store_rejects": True,
    }
    settings = ", ".join(f"{key} = {_sql(value)}" for key, value in options.items())
    chosen = ", ".join(f"f{place}" for place in places)
    try:
        database.execute(f"INSERT INTO raw SELECT {chosen}, {part} FROM read_csv({_sql(str(file))}, {settings})")
    except duckdb.InvalidInputException as error:
        raise UserError(f"{file}: {one_line(error)}") from None
    rejected = database.execute(
        "SELECT line, line_byte_position, column_idx, error_type, error_message FROM reject_errors "
        "ORDER BY line, error_type = 'CAST', column_idx LIMIT 1"  # a row cut wrongly has wrong values, too
    ).fetchall()
    if rejected:
        raise _rejection(file, form, names, *rejected[0])


def line_of(file: Path, form: TableFormat, row: int) -> str:
    """A file and the line of a row, which is numbered from 0."""
    with _open(file, form) as text:
        for number, (line, _) in enumerate(_records(text, form)):
            if number == row + form.header:
                return f"{file}:{line}"
    return f"{file}, row {row + 1}"


def column_names(file: Path, form: TableFormat, label: bool = True) -> list[str]:
    """The names of a file's columns, in their order.

    Args:
        file: whose first line is looked at.
        form: of the file.
        label: where the file has no header, whether the label has to be there.

    Raises:
        UserError: the file is of another kind, in another encoding, or has more or fewer columns.
    """
    with file.open("rb") as binary:
        head = binary.read(4)
    if head == b"PAR1":
        raise UserError(f"{file} is a Parquet file. Set data.format=parquet.")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") and form.encoding != "utf-16":
        raise UserError(f"{file} is in UTF-16, not {form.encoding}. Set data.encoding=utf-16.")
    try:
        with _open(file, form) as text:
            first = next(iter(_records(text, form)), (0, []))[1]
    except UnicodeDecodeError as error:  # of all that Python has read ahead
        raise _encoding(file, 1 + error.object[: error.start].count(b"\n"), form) from None
    except UnicodeError:
        raise _encoding(file, 1, form) from None
    if form.header:
        return first
    names = list(form.columns or ())
    if not label and len(first) == len(names) - 1:
        names.remove(form.label)
    if len(first) != len(names):
        raise _column_count(file, 1, len(first), names, form)
    return names


def misfit(file: Path, form: TableFormat, names: Sequence[str]) -> UserError | None:
    """What is wrong with the first row that has more or fewer columns than `names`, if there is one."""
    try:
        with _open(file, form) as text:
            for line, row in _records(text, form):
                if len(row) != len(names):
                    return _column_count(file, line, len(row), names, form)
    except (UnicodeError, csv.Error):
        return None
    return None


def _rejection(
    file: Path, form: TableFormat, names: Sequence[str], line: int, byte: int, column: int, kind: str, message: str
) -> UserError:
    """What DuckDB rejected, in one line."""
    if file.suffix != ".gz" and form.encoding == "utf-8":
        line = _line_at(file, byte)  # DuckDB counts rows, which is not the same where lines are empty or texts quoted
    if kind in ("MISSING COLUMNS", "TOO MANY COLUMNS") and (found := re.search(r"Found: (\d+)", message)):
        return _column_count(file, line, int(found[1]), names, form)
    if kind == "CAST" and (found := re.search(r'Could not convert string "(.*)" to', message, re.DOTALL)):
        name = names[column - 1]
        what = f"the label '{name}' is '{found[1]}', and has to be 0 or 1"
        if name != form.label:
            what = f"column '{name}' has '{found[1]}', which is not a number. For ids, name it in data.categorical"
        return UserError(f"{file}:{line}: {what}.")
    if kind.startswith("INVALID"):
        return _encoding(file, line, form)
    if kind == "UNQUOTED VALUE":
        return UserError(
            f"{file}:{line}: a quote that is not closed. data.quote='' takes quotes as any other character."
        )
    return UserError(f"{file}:{line}: {one_line(message)}")


def _column_count(file: Path, line: int, found: int, names: Sequence[str], form: TableFormat) -> UserError:
    shown = ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:3])}, ..., {names[-1]}"
    hint = f" Is data.delimiter={form.delimiter!r} right?" if found == 1 else ""
    return UserError(f"{file}:{line}: {found} columns, expected {len(names)} ({shown}).{hint}")


def _encoding(file: Path, line: int, form: TableFormat) -> UserError:
    return UserError(
        f"{file}:{line}: not {form.encoding} text. Set data.encoding=latin-1 if it is that, or convert the file: "
        f"iconv -f ENCODING -t UTF-8 {file.name} > new.csv."
    )


def _open(file: Path, form: TableFormat) -> IO[str]:
    encoding = "utf-8-sig" if form.encoding == "utf-8" else form.encoding
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding=encoding, newline="")
    return file.open(encoding=encoding, newline="")


def _records(text: IO[str], form: TableFormat) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the line on which it begins."""
    csv.field_size_limit(1 << 30)
    if form.quote:
        reader = csv.reader(text, delimiter=form.delimiter, quotechar=form.quote)
    else:
        reader = csv.reader(text, delimiter=form.delimiter, quoting=csv.QUOTE_NONE)
    line = 1
    for row in reader:
        if row:
            yield line, row
        line = reader.line_num + 1


def _line_at(file: Path, byte: int) -> int:
    """The line of a byte, both numbered from 1."""
    lines, left = 1, byte - 1
    with file.open("rb") as binary:
        while left > 0 and (piece := binary.read(min(left, 1 << 20))):
            lines, left = lines + piece.count(b"\n"), left - len(piece)
    return lines


def _sql(value: Any) -> str:
    """A Python value as an SQL literal."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_sql(key)}: {_sql(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_sql, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + str(value).replace("'", "''") + "'"
