"""Lightning's view of a run: metrics go to its journal, and from there to the store in the background."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from trilab.signals import interruption
from trilab.tracking.run import Run


class MlflowLogger(Logger):
    """Records metrics of one MLflow run. The run's life cycle is not its business (see `trilab.tracking.run`).

    Args:
        run: open.
        save_dir: the run's local folder; checkpoints go to its `checkpoints/`.
    """

    def __init__(self, run: Run, save_dir: Path) -> None:
        super().__init__()
        self._run = run
        self._save_dir = save_dir
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

    def tag(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the run."""
        self._run.set_tags(tags)

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Records metrics; the store has them within `tracking.flush_s`."""
        self._run.outbox.metrics(metrics, step)
        self.latest.update(metrics)
