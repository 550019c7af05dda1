"""Rows of a raw file as they stand there, a piece at a time: to be scored, so that they need no label."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from trilab.data.recsys.csv_files import column_names, misfit
from trilab.data.recsys.table_format import TableFormat, one_line
from trilab.errors import UserError

#: Bytes of a CSV file that are read at once, and rows of a Parquet file.
_BYTES, _ROWS = 1 << 24, 1 << 17


def raw_rows(file: Path, form: TableFormat) -> Iterator[pa.Table]:
    """Tables of the file's columns by name, those of a CSV file as text.

    A CSV file without a header may have no label column; all others have to be there.

    Raises:
        UserError: the file cannot be read.
    """
    names: list[str] = []
    try:
        if form.format == "parquet":
            for batch in pq.ParquetFile(file).iter_batches(_ROWS):
                yield pa.Table.from_batches([batch])
            return
        names = column_names(file, form, label=False)
        options = {
            "read_options": pa.csv.ReadOptions(
                block_size=_BYTES, column_names=names, skip_rows=int(form.header), encoding=form.encoding
            ),
            "parse_options": pa.csv.ParseOptions(
                delimiter=form.delimiter, quote_char=form.quote or False, newlines_in_values=bool(form.quote)
            ),
            "convert_options": pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False
            ),
        }
        with pa.input_stream(str(file)) as stream:
            for batch in pa.csv.open_csv(stream, **options):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, OSError, UnicodeError) as error:
        # Arrow says what is wrong with a row, and not on which line it is.
        raise (misfit(file, form, names) if names else None) or UserError(f"{file}: {one_line(error)}") from None
