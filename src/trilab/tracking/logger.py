"""Lightning's view of a run: metrics are buffered and sent in batches."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from trilab.signals import interruption, shielded

#: MLflow's limit on the metrics of one request.
_BATCH = 1000


class MlflowLogger(Logger):
    """Sends metrics to one MLflow run. The run's life cycle is not its business (see `trilab.tracking.run`).

    One request with ten metrics takes 4 to 5 ms on SQLite and 23 ms over HTTP, whether it holds ten or a thousand; so
    metrics wait until `flush_s` have passed or a batch is full.

    Args:
        client: of the store.
        run_id: of an open run.
        save_dir: the run's local folder; checkpoints go to its `checkpoints/`.
        flush_s: longest time that a metric waits, in seconds.
    """

    def __init__(self, client: MlflowClient, run_id: str, save_dir: Path, flush_s: float) -> None:
        super().__init__()
        self._client = client
        self._run_id = run_id
        self._save_dir = save_dir
        self._flush_s = flush_s
        self._buffer: list[Metric] = []
        self._last_flush = time.monotonic()
        self.latest: dict[str, float] = {}

    @property
    def all(self) -> "list[MlflowLogger]":
        """The logger itself, then those of the run's members."""
        return [self]

    # Empty, so that Lightning's checkpoints stand in save_dir/checkpoints.
    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._save_dir)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the whole configuration was logged when the run was opened."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        stopped = interruption()
        if stopped is not None:  # something has swallowed the exception, and the training still goes on
            raise stopped
        self.add(metrics, step or 0)
        if len(self._buffer) >= _BATCH or time.monotonic() - self._last_flush > self._flush_s:
            self.flush()

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Lets metrics wait for the next request."""
        now = int(time.time() * 1000)
        self._buffer += [Metric(key, float(value), now, step) for key, value in metrics.items()]
        self.latest.update(metrics)

    def flush(self) -> None:
        """Sends everything that waits."""
        while self._buffer:
            batch = self._buffer[:_BATCH]
            with shielded():
                self._client.log_batch(self._run_id, metrics=batch)
                del self._buffer[:_BATCH]
        self._last_flush = time.monotonic()

    def save(self) -> None:
        self.flush()

    def finalize(self, status: str) -> None:
        self.flush()
