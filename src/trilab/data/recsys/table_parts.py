"""One part of a converted table on disk: an Arrow file of blocks of rows, written block by block and mapped to be read.

A block is a record batch with `label`, `ids`, a list of integers of one length, and, where there are dense features,
`dense`, the same of float32. So a block's arrays are (rows, fields) and (rows, dense) in the file as they are in
memory, and reading one copies nothing.
"""

import mmap
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: (rows, fields) integers, (rows, dense) and (rows,) float32.
Block = tuple[NDArray[np.integer], NDArray[np.float32], NDArray[np.float32]]


def write_part(path: Path, blocks: Iterable[Block], fields: int, dense: int, id_type: np.dtype) -> int:
    """Writes blocks of rows and returns how many rows there were.

    Args:
        fields: columns of the ids.
        dense: columns of the features.
        id_type: of the ids in the file; one that holds them all.
    """
    types = {"label": pa.float32(), "ids": pa.list_(pa.from_numpy_dtype(id_type), fields)}
    if dense:  # Arrow has no lists of length 0
        types["dense"] = pa.list_(pa.float32(), dense)
    schema = pa.schema(types)
    rows = 0
    with pa.ipc.new_file(path, schema) as writer:
        for ids, features, labels in blocks:
            columns = [pa.array(labels), _lists(ids.astype(id_type)), *([_lists(features)] if dense else [])]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            rows += len(labels)
    return rows


class TablePart:
    """The blocks of a part, read through a memory map.

    Raises:
        pa.ArrowInvalid, OSError, ValueError: the file is not whole.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._reader = pa.ipc.open_file(pa.py_buffer(self._map))
        schema = self._reader.schema
        self.fields = schema.field("ids").type.list_size
        self.dense = schema.field("dense").type.list_size if "dense" in schema.names else 0
        self.id_type = np.dtype(schema.field("ids").type.value_type.to_pandas_dtype())
        self.sizes = [self._reader.get_batch(i).num_rows for i in range(self._reader.num_record_batches)]

    @property
    def rows(self) -> int:
        return sum(self.sizes)

    @property
    def row_bytes(self) -> int:
        return self.fields * self.id_type.itemsize + 4 * (self.dense + 1)

    def block(self, number: int) -> Block:
        """Views of the file."""
        batch = self._reader.get_batch(number)
        ids = batch["ids"].values.to_numpy().reshape(-1, self.fields)
        if not self.dense:
            return ids, np.zeros((len(ids), 0), np.float32), batch["label"].to_numpy()
        return ids, batch["dense"].values.to_numpy().reshape(-1, self.dense), batch["label"].to_numpy()

    def release(self) -> None:
        """Gives the memory of all pages read so far back to the system, which keeps them cached while it has room.

        Without it a pass over the file ends with the whole file counted as memory of this process.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmaps the file, unless arrays still view it; then the last of them does."""
        del self._reader
        with suppress(BufferError):
            self._map.close()


def _lists(rows: NDArray) -> pa.Array:
    """(rows, n) to lists of length n."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
