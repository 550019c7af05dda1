"""MLflow's view of a registered model: what `mlflow models serve` and `mlflow.pyfunc.load_model` call."""

from pathlib import Path
from typing import Any

import numpy as np

from trilab.serving.package import Served, load


class PyfuncModel:
    """Answers arrays and data frames, as its signature says."""

    def __init__(self, served: Served) -> None:
        self.served = served

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
        """The fields of an answer, each (rows, ...)."""
        return self.served.compute(self.served.contract.frame_inputs(model_input))


def _load_pyfunc(data_path: str) -> PyfuncModel:
    """What MLflow calls, by this name."""
    return PyfuncModel(load(Path(data_path)))
