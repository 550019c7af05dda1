"""A table of clicks from the user's own files: CSV or Parquet, of any size.

The files are converted once (`table_conversion`) and kept in a cache (`table_cache`). Where the result fits into memory
its rows are tensors, and batches are indexing operations; where it does not, batches come from disk (`blocks`).

The checkpoint holds the vocabularies and the numeric transform, `preprocessing`, so that a model read from it scores
raw rows exactly as in training.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from torch import Tensor

from trilab.data.batches import Batch, EpochBatches, TensorData
from trilab.data.contents import Contents, Part, settings_key
from trilab.data.recsys.blocks import BlockBatches, resident
from trilab.data.recsys.preprocessing import Preprocessing
from trilab.data.recsys.spec import TableSpec
from trilab.data.recsys.table_cache import PREPROCESSING, cached, fault_of, key_of
from trilab.data.recsys.table_conversion import PARTS, TableSettings, convert
from trilab.data.recsys.table_files import find
from trilab.data.recsys.table_format import TableFormat
from trilab.data.recsys.table_parts import TablePart
from trilab.errors import ConfigError, UserError
from trilab.ranges import Fraction, NonNegativeInt, PositiveFraction, PositiveInt


class ClickTable(TensorData):
    """Rows of categorical and numeric columns with a label of 0 or 1.

    Args:
        train_path: file to train on; or several, or a pattern with `*`.
        val_path: the same of validation; null to split rows off those to train on.
        test_path: the same of the test.
        format: of all files.
        delimiter: between two columns of a CSV file.
        quote: around a text that may hold delimiters and line ends; empty where quotes mean nothing.
        header: whether a CSV file's first line has the names of its columns.
        columns: those names where it has none.
        encoding: of a CSV file.
        missing: texts that mean a missing value, besides the empty one.
        label: the column with 0 and 1.
        dense: numeric columns.
        categorical: the columns whose values get ids.
        user: which of them is the user, if one is.
        item: which of them is the item, if one is.
        group: the one by whose values the grouped AUC is taken, if one is.
        split: which rows are split off where a part has no files: random ones, or the last (of those, the last are the
            test's).
        val_fraction: of the training files' rows, where there is no `val_path`.
        test_fraction: likewise.
        split_seed: of a random split.
        min_count: a value that training has less often shares the id 1 with all such.
        dense_transform: of the numeric columns.
        buckets: at most so many of a numeric column, if it is bucketised.
        cache: folder of converted tables.
        memory_limit_mb: DuckDB's, in converting.
        in_memory: hold all rows in memory; auto where they take at most `memory_share` of what is free.
        memory_share: of the free memory.
        block_rows: rows of a block on disk.
        mixed_blocks: random blocks that are in memory, and shuffled together, where not all rows are.
        batch_size: rows of a training batch.
        eval_batch_size: rows of a batch in validation and test.
        seed: of the training batches' order.
    """

    def __init__(
        self,
        train_path: str | list[str],
        val_path: str | list[str] | None,
        test_path: str | list[str] | None,
        format: Literal["csv", "parquet"],
        delimiter: str,
        quote: str,
        header: bool,
        columns: list[str] | None,
        encoding: Literal["utf-8", "latin-1", "utf-16"],
        missing: list[str],
        label: str,
        dense: list[str],
        categorical: list[str],
        user: str | None,
        item: str | None,
        group: str | None,
        split: Literal["random", "in_order"],
        val_fraction: Fraction,
        test_fraction: Fraction,
        split_seed: NonNegativeInt,
        min_count: PositiveInt,
        dense_transform: Literal["none", "standardize", "log1p", "log_standardize", "bucketize"],
        buckets: PositiveInt,
        cache: str,
        memory_limit_mb: PositiveInt,
        in_memory: bool | Literal["auto"],
        memory_share: PositiveFraction,
        block_rows: PositiveInt,
        mixed_blocks: PositiveInt,
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        self._paths = {"train_path": train_path, "val_path": val_path, "test_path": test_path}
        self.form = TableFormat(
            format=format,
            delimiter=delimiter,
            quote=quote,
            header=header,
            columns=tuple(columns) if columns is not None else None,
            encoding=encoding,
            missing=tuple(missing),
            label=label,
            dense=tuple(dense),
            categorical=tuple(categorical),
        )
        self._settings_of = partial(
            TableSettings,
            form=self.form,
            split=split,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            min_count=min_count,
            dense_transform=dense_transform,
            buckets=buckets,
            block_rows=block_rows,
        )
        self._special = (user, item, group)
        self._cache = Path(cache).expanduser().absolute()
        self._memory_limit_mb = memory_limit_mb
        self._in_memory = in_memory
        self._memory_share = memory_share
        self._mixed_blocks = mixed_blocks
        self._files: dict[str, TablePart] = {}
        self._preprocessing: Preprocessing | None = None
        self._serialized: bytes | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """What raw rows become ids and dense features by."""
        assert self._preprocessing is not None, "setup() comes first"
        return self._preprocessing

    @property
    def spec(self) -> TableSpec:
        return self.spec_of(self.preprocessing)

    def spec_of(self, preprocessing: Preprocessing) -> TableSpec:
        """What a model needs to know of rows that a preprocessing makes."""
        fields = preprocessing.fields
        user, item, group = (fields.index(name) if name else None for name in self._special)
        return TableSpec(
            cardinalities=preprocessing.cardinalities,
            dense=len(preprocessing.dense),
            fields=fields,
            dense_names=preprocessing.dense,
            user=user,
            item=item,
            group=group,
        )

    def prepare_data(self) -> None:
        settings = self._settings()
        cached(self._cache, key_of(settings), settings, lambda folder: convert(settings, folder, self._memory_limit_mb))

    def setup(self, stage: str) -> None:
        if self._files:
            return
        folder = self._cache / key_of(self._settings())
        if fault := fault_of(folder):
            raise UserError(f"{folder}: {fault}. prepare_data() makes it.")
        self._serialized = (folder / PREPROCESSING).read_bytes()
        self._preprocessing = Preprocessing.from_bytes(self._serialized)
        self._files = {name: TablePart(folder / f"{name}.arrow") for name in PARTS}
        if not self.parts and self._fits_in_memory():
            self.parts = {name: resident(part) for name, part in self._files.items()}

    def contents(self) -> Contents:
        key = key_of(self._settings())  # of the files as they are, so that none has to be read
        parts = {name: Part({"rows": part.rows}, settings_key([key, name])) for name, part in self._files.items()}
        return Contents(parts, self.spec.columns)

    def teardown(self, stage: str) -> None:
        for part in self._files.values():
            part.close()
        self._files = {}

    def state_dict(self) -> dict[str, Tensor]:
        assert self._serialized is not None, "setup() comes first"
        return {"preprocessing": torch.frombuffer(bytearray(self._serialized), dtype=torch.uint8)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if preprocessing_of(state_dict) != self.preprocessing:
            raise UserError(
                "The checkpoint's model was trained with other vocabularies or numeric transforms than these data "
                "give: ids would mean other values. Use the files and the settings of data that it was trained with."
            )

    def transform(self, batch: Batch) -> Batch:
        ids, dense, labels = (tensor.to(self._device) for tensor in batch)
        return ids.to(torch.int64), dense, labels

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _batches(self, name: str, batch_size: int, shuffle: bool = False) -> EpochBatches:  # type: ignore[override]
        if name in self.parts and self._fits_on_device(self.parts[name]):
            return super()._batches(name, batch_size, shuffle)
        return BlockBatches(
            self._files[name],
            batch_size,
            self._mixed_blocks,
            shuffle=shuffle,
            seed=self.seed,
            transform=self.transform,
        )

    def _fits_in_memory(self) -> bool:
        if self._in_memory != "auto":
            return bool(self._in_memory)
        size = sum(part.rows * part.row_bytes for part in self._files.values())
        return size <= self._memory_share * psutil.virtual_memory().available

    def _fits_on_device(self, part: Batch) -> bool:
        """The same of a device that has a memory of its own."""
        if self._in_memory != "auto" or self._device.type != "cuda" or part[0].device == self._device:
            return True
        free, _ = torch.cuda.mem_get_info(self._device)
        return sum(tensor.nbytes for tensor in part) <= self._memory_share * free

    def _settings(self) -> TableSettings:
        files = {knob: find(knob, paths) if paths is not None else () for knob, paths in self._paths.items()}
        seen: dict[Path, str] = {}
        for knob, found in files.items():
            for file in found:
                if file in seen:
                    raise ConfigError(f"data.{knob}: {file} is in data.{seen[file]} already.")
                seen[file] = knob
        return self._settings_of(train=files["train_path"], val=files["val_path"], test=files["test_path"])


def preprocessing_of(state: Mapping[str, Any]) -> Preprocessing:
    """What turns raw rows into the ids and dense features of a model, from its checkpoint.

    Args:
        state: the part of the checkpoint that is named after the data module: `checkpoint["ClickTable"]`.
    """
    return Preprocessing.from_bytes(state["preprocessing"].numpy().tobytes())
