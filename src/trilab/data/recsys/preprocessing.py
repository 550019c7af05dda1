"""What turns raw rows into ids and dense features: fitted on training rows, then the same for every row ever after.

It knows neither files nor torch, and serialises to bytes that hold no code, so that a checkpoint can carry it and score
raw rows exactly as training did.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trilab.data.recsys.columns import as_number, as_text
from trilab.data.recsys.transforms import Array, DenseTransform
from trilab.data.recsys.vocabulary import Vocabulary
from trilab.errors import UserError, nearest

#: Of the bytes; a change of what they mean raises it.
FORMAT = 1


@dataclass(frozen=True)
class Preprocessing:
    """Vocabularies and a numeric transform.

    Args:
        categorical: names of the categorical columns.
        numeric: names of the numeric columns.
        missing: texts that mean a missing value, besides the empty one.
        vocabularies: of each categorical column.
        transform_numeric: of the numeric columns.
    """

    categorical: tuple[str, ...]
    numeric: tuple[str, ...]
    missing: tuple[str, ...]
    vocabularies: tuple[Vocabulary, ...]
    transform_numeric: DenseTransform

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the categorical fields: bucketised columns come last."""
        return self.categorical + (self.numeric if self.transform_numeric.kind == "bucketize" else ())

    @property
    def dense(self) -> tuple[str, ...]:
        """Names of the dense features."""
        return () if self.transform_numeric.kind == "bucketize" else self.numeric

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Ids of each field."""
        return (*(v.cardinality for v in self.vocabularies), *self.transform_numeric.cardinalities)

    def transform(self, table: Any) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Raw rows to (rows, fields) ids and (rows, dense) features.

        Args:
            table: a pyarrow.Table or pandas.DataFrame with the columns by name; others are left alone.

        Raises:
            UserError: a column is not there, or holds what it may not hold.
        """
        table = _as_arrow(table, [*self.categorical, *self.numeric])
        numbers = matrix([as_number(table[name], name, self.missing) for name in self.numeric], table.num_rows)
        buckets = self.transform_numeric.buckets(numbers)
        ids = np.empty((table.num_rows, len(self.cardinalities)), dtype=np.int64)
        ids[:, len(self.categorical) :] = buckets

        def encode(field: int) -> None:
            name = self.categorical[field]
            ids[:, field] = self.vocabularies[field].ids(as_text(table[name], name, self.missing))

        with ThreadPoolExecutor(pa.cpu_count()) as pool:  # Arrow's kernels work outside Python's lock
            list(pool.map(encode, range(len(self.categorical))))
        return ids, self.transform_numeric.dense(numbers)

    def to_bytes(self) -> bytes:
        """As an Arrow stream: a row for each vocabulary, the rest as JSON in the schema's metadata."""
        about = {
            "format": FORMAT,
            "categorical": self.categorical,
            "numeric": self.numeric,
            "missing": self.missing,
            "transform_numeric": asdict(self.transform_numeric),
        }
        ends = np.cumsum([0, *(len(v.values) for v in self.vocabularies)])
        values = pa.concat_arrays([pa.array([], pa.large_string()), *(v.values for v in self.vocabularies)])
        batch = pa.record_batch(
            {
                "values": pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), values),
                "kept": pa.array([v.kept for v in self.vocabularies], pa.int64()),
            }
        ).replace_schema_metadata({"preprocessing": json.dumps(about)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_batch(batch)
        return bytes(sink.getvalue())

    @classmethod
    def from_bytes(cls, content: bytes) -> "Preprocessing":
        """The inverse of `to_bytes`.

        Raises:
            UserError: the bytes are not such, or of another version.
        """
        try:
            table = pa.ipc.open_stream(content).read_all().combine_chunks()
            about = json.loads(table.schema.metadata[b"preprocessing"])
        except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError):
            raise UserError("preprocessing: the bytes are damaged, or not of a trilab checkpoint.") from None
        if about["format"] != FORMAT:
            raise UserError(
                f"preprocessing: written in format {about['format']}, and this version of trilab reads {FORMAT}."
            )
        numeric = about["transform_numeric"]
        rows = zip(table["values"], table["kept"].to_pylist(), strict=True)
        return cls(
            categorical=tuple(about["categorical"]),
            numeric=tuple(about["numeric"]),
            missing=tuple(about["missing"]),
            vocabularies=tuple(Vocabulary(row.values, kept) for row, kept in rows),
            transform_numeric=DenseTransform(
                kind=numeric["kind"],
                mean=tuple(numeric["mean"]),
                std=tuple(numeric["std"]),
                boundaries=tuple(tuple(column) for column in numeric["boundaries"]),
            ),
        )


def matrix(columns: Sequence[Array], rows: int) -> Array:
    """Columns side by side: (rows, columns), also where there are none."""
    return np.stack(columns, 1) if columns else np.zeros((rows, 0))


def _as_arrow(table: Any, names: Sequence[str]) -> pa.Table:
    there = table.column_names if isinstance(table, pa.Table) else [str(name) for name in table.columns]
    for name in names:
        if name not in there:
            raise UserError(f"there is no column '{name}'.{nearest(name, there)} Columns: {', '.join(there)}.")
    if isinstance(table, pa.Table):
        return table.select(list(names))
    try:
        return pa.Table.from_pandas(table[list(names)], preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"a column of mixed types: {' '.join(str(error).split())}. Make it text.") from None
