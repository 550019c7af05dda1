"""Observations of an environment in, actions and action values out."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le, Len, Lt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, create_model
from torch import Tensor

from trilab.serving.contract import BadInput, Contract

Dtype = Literal["float32", "uint8", "int64"]


class ActionAnswer(BaseModel):
    """For each observation the greedy action, and the value of every action."""

    actions: list[int] = Field(description="the action with the highest value, counted from 0")
    q_values: list[list[float]] = Field(description="of every action: the discounted return that is expected of it")


class Observations(Contract):
    """Of one environment.

    Args:
        env_id: as registered with Gymnasium.
        shape: of one observation; () where it is the number of a state.
        dtype: of its values.
        actions: how many there are.
        states: how many there are, where an observation is the number of one.
    """

    kind: ClassVar[str] = "observations"

    def __init__(self, env_id: str, shape: list[int], dtype: Dtype, actions: int, states: int | None) -> None:
        self.env_id = env_id
        self.shape = tuple(shape)
        self.dtype: Dtype = dtype
        self.actions = actions
        self.states = states

    def describe(self) -> dict[str, Any]:
        return {
            "env_id": self.env_id,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "actions": self.actions,
            "states": self.states,
        }

    def request(self, max_rows: int) -> type[BaseModel]:
        kind: Any = FiniteFloat
        if self.states is not None:
            kind = Annotated[int, Ge(0), Lt(self.states)]
        elif self.dtype == "uint8":
            kind = Annotated[int, Ge(0), Le(255)]
        elif self.dtype == "int64":
            kind = int
        for size in reversed(self.shape):
            kind = Annotated[list[kind], Len(size, size)]
        about = f"of {self.env_id}, each of shape {self.shape or '() (the number of a state)'}"
        field = Field(min_length=1, max_length=max_rows, description=about)
        config = ConfigDict(extra="forbid")
        return create_model("ObservationsRequest", __config__=config, observations=(list[kind], field))

    def response(self) -> type[BaseModel]:
        return ActionAnswer

    def inputs(self, body: Any) -> tuple[Tensor, ...]:
        return self._tensor(np.asarray(body.observations))

    def frame_inputs(self, frame: Any) -> tuple[Tensor, ...]:
        return self._tensor(np.asarray(frame))

    def _tensor(self, array: np.ndarray) -> tuple[Tensor, ...]:
        if array.shape[1:] != self.shape:
            raise BadInput(f"observations of shape {array.shape[1:]}, expected {self.shape}.")
        if self.states is not None and array.size and not (array.min() >= 0 and array.max() < self.states):
            raise BadInput(f"observations: the number of a state is 0 to {self.states - 1}.")
        with np.errstate(over="ignore"):
            values = array.astype(self.dtype)
        if self.dtype == "float32" and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise BadInput(f"observations[{row}]: a value that is no finite float32.")
        return (torch.from_numpy(values),)

    def answer(self, output: Tensor) -> dict[str, np.ndarray]:
        values = output.cpu().numpy()
        return {"actions": values.argmax(-1), "q_values": values}

    def example(self) -> np.ndarray:
        return np.zeros((2, *self.shape), self.dtype)

    def signature(self) -> Any:
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        return ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(self.dtype), (-1, *self.shape))]),
            outputs=Schema(
                [
                    TensorSpec(np.dtype("int64"), (-1,), "actions"),
                    TensorSpec(np.dtype("float32"), (-1, self.actions), "q_values"),
                ]
            ),
        )
