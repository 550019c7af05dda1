"""Columns of a raw table in the two forms that preprocessing knows: texts, and numbers.

Whatever the table's types are, a row has the same text or number wherever it comes from: a CSV file, a Parquet file, or
a table in memory that is to be scored.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trilab.errors import UserError


def as_text(column: pa.ChunkedArray | pa.Array, name: str, missing: Sequence[str]) -> pa.Array:
    """A categorical column as large_string with nulls where it is missing.

    Args:
        column: texts, whole numbers, true and false, or dates. Floating point is taken where it is whole, for a table
            with gaps often holds its whole numbers so.
        name: of the column, for messages.
        missing: texts that mean a missing value, besides the empty one.

    Raises:
        UserError: the column is of another type, or has lost digits.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_floating(kind):
        column = _whole(column, name)
    elif not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_date32(kind) or is_text(kind)):
        raise UserError(f"column '{name}' is {kind}: a categorical column holds texts or whole numbers. Cast it first.")
    text = column.cast(pa.string() if not is_text(kind) else pa.large_string()).cast(pa.large_string())
    return without(text, missing)


def as_number(column: pa.ChunkedArray | pa.Array, name: str, missing: Sequence[str]) -> NDArray[np.float64]:
    """A numeric column as float64 with NaN where it is missing.

    Args:
        column: numbers, true and false, or texts of numbers.
        name: of the column, for messages.
        missing: texts that mean a missing value, besides the empty one.

    Raises:
        UserError: the column is of another type, or holds something that is not a finite number.
    """
    column = plain(column)
    kind = column.type
    if is_text(kind):
        text = without(pc.utf8_trim_whitespace(column.cast(pa.large_string())), missing)
        try:
            column = text.cast(pa.float64())
        except pa.ArrowInvalid:
            raise UserError(f"column '{name}' has '{_first_text(text)}', which is not a number.") from None
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise UserError(f"column '{name}' is {kind}: a dense column holds numbers. Cast it first.")
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if np.isinf(values).any():
        raise UserError(f"column '{name}' has an infinite value, which is not a number to learn from.")
    return values


def without(text: pa.Array, missing: Sequence[str]) -> pa.Array:
    """Texts with nulls in place of empty ones and of those that mean a missing value."""
    gaps = pc.is_in(text, value_set=pa.array(["", *missing], text.type))
    return pc.if_else(gaps, pa.scalar(None, text.type), text)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text, or holds nothing but nulls."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array, without a dictionary."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # which pyarrow gives for no chunk, and for more than one can hold
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    return column


def _whole(column: pa.Array, name: str) -> pa.Array:
    """Floating point as whole numbers; NaN is missing."""
    column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    values = column.drop_null().to_numpy()
    bits = np.finfo(values.dtype).nmant + 1  # beyond 2^bits not every whole number has a value of its own
    if (np.abs(values) >= 2.0**bits).any():
        raise UserError(
            f"column '{name}' is {column.type}, which has lost digits of ids from 2^{bits} on. Read it as text."
        )
    if (values != np.trunc(values)).any():
        odd = values[values != np.trunc(values)][0]
        raise UserError(
            f"column '{name}' has {odd}: a categorical column holds texts or whole numbers. Read it as text, or name "
            "it under data.dense."
        )
    return column.cast(pa.int64())


def _first_text(text: pa.Array) -> str:
    """The first text that is not a number."""
    for value in text.drop_null():
        try:
            value.cast(pa.float64())
        except pa.ArrowInvalid:
            return str(value)
    return ""
