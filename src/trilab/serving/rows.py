"""Rows of a table in, the probability of a click or of an interaction out."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from annotated_types import Ge, Lt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, create_model
from torch import Tensor

from trilab.data.recsys.preprocessing import Preprocessing
from trilab.errors import UserError
from trilab.serving.contract import BadInput, Contract


class Column(NamedTuple):
    """A column of a request.

    Args:
        name: as a row has it.
        kind: a text of a vocabulary, a number, or an id from 0.
        size: how many ids there are; 0 for the other kinds.
    """

    name: str
    kind: Literal["text", "number", "id"]
    size: int = 0


class RowAnswer(BaseModel):
    """For each row a probability."""

    probabilities: list[float] = Field(description="that the row is a 1: a click, an interaction")


class Rows(Contract):
    """Rows with columns by name. A subclass says which, and how they become ids and dense features."""

    @property
    @abstractmethod
    def columns(self) -> list[Column]:
        """Of a row, in any order."""

    @abstractmethod
    def encode(self, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Columns by name, each (rows,), to int64 (rows, fields) and float32 (rows, dense).

        Raises:
            UserError: a value is wrong.
        """

    def request(self, max_rows: int) -> type[BaseModel]:
        kinds: dict[str, Any] = {"text": str | int | None, "number": FiniteFloat | None}
        # Columns may have any names, and fields of a class may not: the names are aliases.
        fields: dict[str, Any] = {
            f"c{place}": (
                Annotated[int, Ge(0), Lt(column.size)] if column.kind == "id" else kinds[column.kind],
                Field(alias=column.name),
            )
            for place, column in enumerate(self.columns)
        }
        row = create_model("Row", __config__=ConfigDict(extra="forbid"), **fields)
        field = Field(min_length=1, max_length=max_rows, description="null is a missing value")
        return create_model("RowsRequest", __config__=ConfigDict(extra="forbid"), rows=(list[row], field))  # type: ignore[valid-type]

    def response(self) -> type[BaseModel]:
        return RowAnswer

    def inputs(self, body: Any) -> tuple[Tensor, ...]:
        given: dict[str, Any] = {}
        for place, column in enumerate(self.columns):
            values = [getattr(row, f"c{place}") for row in body.rows]
            if column.kind == "text":
                given[column.name] = pa.array([None if v is None else str(v) for v in values], pa.large_string())
            elif column.kind == "number":
                given[column.name] = pa.array(values, pa.float64())
            else:
                given[column.name] = np.asarray(values, np.int64)
        return self._tensors(given)

    def frame_inputs(self, frame: Any) -> tuple[Tensor, ...]:
        missing = [column.name for column in self.columns if column.name not in frame]
        if missing:
            raise BadInput(f"there is no column '{missing[0]}'.")
        for column in self.columns:
            values = frame[column.name]
            if column.kind == "id" and not ((values >= 0) & (values < column.size)).all():
                raise BadInput(f"{column.name}: expected whole numbers from 0 to {column.size - 1}.")
        return self._tensors({column.name: frame[column.name].to_numpy() for column in self.columns})

    def _tensors(self, columns: Mapping[str, Any]) -> tuple[Tensor, ...]:
        try:
            ids, dense = self.encode(columns)
        except UserError as error:
            raise BadInput(str(error)) from None
        return torch.from_numpy(ids), torch.from_numpy(dense)

    def answer(self, output: Tensor) -> dict[str, np.ndarray]:
        return {"probabilities": output.cpu().double().sigmoid().numpy()}

    def example(self) -> Any:
        import pandas as pd

        made_up = {"text": "a", "number": 0.0, "id": 0}
        return pd.DataFrame({column.name: [made_up[column.kind]] * 2 for column in self.columns})

    def signature(self) -> Any:
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, Schema, TensorSpec

        kinds = {"text": DataType.string, "number": DataType.double, "id": DataType.long}
        return ModelSignature(
            inputs=Schema([ColSpec(kinds[column.kind], column.name) for column in self.columns]),
            outputs=Schema([TensorSpec(np.dtype("float64"), (-1,), "probabilities")]),
        )


class RawRows(Rows):
    """Raw rows, through the vocabularies and the numeric transform that the model was trained with.

    Args:
        preprocessing: of the training.
    """

    kind: ClassVar[str] = "raw_rows"

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    @property
    def columns(self) -> list[Column]:
        texts = [Column(name, "text") for name in self.preprocessing.categorical]
        return [*texts, *(Column(name, "number") for name in self.preprocessing.numeric)]

    def encode(self, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        return self.preprocessing.transform(pa.table(dict(columns)))

    def describe(self) -> dict[str, Any]:
        return {}  # it has a file of its own


class IdRows(Rows):
    """Rows of ids and dense features as the model takes them.

    Args:
        fields: names of the id columns.
        cardinalities: ids of each.
        dense: names of the dense columns.
    """

    kind: ClassVar[str] = "id_rows"

    def __init__(self, fields: Sequence[str], cardinalities: Sequence[int], dense: Sequence[str]) -> None:
        self.fields = list(fields)
        self.cardinalities = list(cardinalities)
        self.dense = list(dense)

    @property
    def columns(self) -> list[Column]:
        ids = [Column(name, "id", size) for name, size in zip(self.fields, self.cardinalities, strict=True)]
        return [*ids, *(Column(name, "number") for name in self.dense)]

    def encode(self, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        rows = len(columns[self.fields[0]])
        ids = np.stack([np.asarray(columns[name], np.int64) for name in self.fields], 1)
        numbers = [_numbers(columns[name], name) for name in self.dense]
        return ids, np.stack(numbers, 1) if numbers else np.zeros((rows, 0), np.float32)

    def describe(self) -> dict[str, Any]:
        return {"fields": self.fields, "cardinalities": self.cardinalities, "dense": self.dense}


class Pairs(Rows):
    """A user and an item, with what is known of each.

    Args:
        side_ids: of users and of items: int64 (users, fields), (items, fields).
        side_dense: likewise: float32 (users, features), (items, features).
    """

    kind: ClassVar[str] = "pairs"

    def __init__(self, side_ids: tuple[Tensor, Tensor], side_dense: tuple[Tensor, Tensor]) -> None:
        self.side_ids = side_ids
        self.side_dense = side_dense

    @property
    def columns(self) -> list[Column]:
        users, items = (len(ids) for ids in self.side_ids)
        return [Column("user", "id", users), Column("item", "id", items)]

    def encode(self, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        pair = [torch.as_tensor(np.array(columns[name], np.int64)) for name in ("user", "item")]
        sides = [ids[rows] for ids, rows in zip(self.side_ids, pair, strict=True)]
        dense = [values[rows] for values, rows in zip(self.side_dense, pair, strict=True)]
        return torch.cat([torch.stack(pair, 1), *sides], 1).numpy(), torch.cat(dense, 1).numpy()

    def describe(self) -> dict[str, Any]:
        return {}  # its tensors have a file of their own


def _numbers(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values, np.float32)
    if not np.isfinite(array).all():
        raise BadInput(f"{name}: a missing value, or one that is no finite float32.")
    return array
