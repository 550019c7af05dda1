"""What a served model takes and gives: the same over HTTP, in an MLflow model and in its description."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel
from torch import Tensor

from trilab.errors import UserError


class BadInput(UserError):
    """A request that cannot be answered: says which value is wrong, and what is allowed."""


class Contract(ABC):
    """The inputs and outputs of one model, by its field."""

    #: Which contract it is, in a description.
    kind: ClassVar[str]

    @abstractmethod
    def request(self, max_rows: int) -> type[BaseModel]:
        """The schema of a request of so many rows at most."""

    @abstractmethod
    def response(self) -> type[BaseModel]:
        """The schema of an answer."""

    @abstractmethod
    def inputs(self, body: Any) -> tuple[Tensor, ...]:
        """A request's content as the program's inputs, each (rows, ...).

        Raises:
            BadInput: it is wrong in a way that the schema does not see.
        """

    @abstractmethod
    def frame_inputs(self, frame: Any) -> tuple[Tensor, ...]:
        """The same of what an MLflow model is called with: an array, or a pandas.DataFrame."""

    @abstractmethod
    def answer(self, output: Tensor) -> dict[str, np.ndarray]:
        """The program's output as the fields of an answer, each (rows, ...)."""

    @abstractmethod
    def example(self) -> Any:
        """An input of an MLflow model, two rows; what it holds is made up."""

    @abstractmethod
    def signature(self) -> Any:
        """MLflow's ModelSignature."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The constructor's arguments as JSON can hold them."""
