"""Where runs are recorded. Checked before MLflow is imported."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from trilab.errors import ConfigError, nearest
from trilab.ranges import NonNegativeFloat, PositiveFloat
from trilab.tracking.secrets import redacted

_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


class Tracking:
    """Settings of the MLflow store and of what is sent to it.

    Args:
        experiment_name: MLflow experiment that the run goes to.
        uri: the store; None for `mlflow.db` in the current folder.
        run_name: None for one made of seed, precision, model and data.
        tags: the user's own tags.
        system_metrics: log the use of processor, memory, disk, network and GPU.
        system_metrics_interval_s: seconds between two samples of them.
        checkpoints: upload the best and the last checkpoint.
        model: log the trained model with its signature and an input example; auto: of runs that are not in a sweep.
        flush_s: longest time that a metric waits before it is sent, in seconds.
        wait_s: longest wait at the end of a run for a store that does not answer, in seconds.
        offline: a run whose store does not answer starts all the same, and is kept in the spool; or it fails.
        spool: folder of what was not sent yet; None for $TRILAB_SPOOL, or one of the user's own.

    Raises:
        ConfigError: a store that MLflow does not have.
    """

    def __init__(
        self,
        experiment_name: str,
        uri: str | None = None,
        run_name: str | None = None,
        tags: Mapping[str, str | int | float | bool] | None = None,
        system_metrics: bool = True,
        system_metrics_interval_s: PositiveFloat = 10,
        checkpoints: bool = True,
        model: bool | Literal["auto"] = "auto",
        flush_s: PositiveFloat = 2.0,
        wait_s: NonNegativeFloat = 10.0,
        offline: Literal["spool", "fail"] = "spool",
        spool: str | None = None,
    ) -> None:
        self.uri = store_uri(uri)
        self.experiment_name = experiment_name
        self.run_name = run_name
        self.tags = {key: str(value) for key, value in (tags or {}).items()}
        self.system_metrics = system_metrics
        self.system_metrics_interval_s = system_metrics_interval_s
        self.checkpoints = checkpoints
        self.model = model
        self.flush_s = flush_s
        self.wait_s = wait_s
        self.offline = offline
        self.spool = spool

    def logs_model(self, in_sweep: bool) -> bool:
        """Whether a run's model is to be logged.

        Args:
            in_sweep: the run is one of a sweep.
        """
        return not in_sweep if self.model == "auto" else self.model

    @property
    def artifact_root(self) -> str | None:
        """Where artifacts of a local store go: beside its database; None where a server decides."""
        database = sqlite_path(self.uri)
        return (database.parent / "mlartifacts").as_uri() if database else None


def store_uri(uri: str | None) -> str:
    """The store's URI, absolute: a relative SQLite path would depend on the folder that MLflow's UI is started in."""
    if not uri:
        return f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    scheme = re.split(r"[+:]", uri, maxsplit=1)[0].lower()
    if scheme not in _SCHEMES:
        hint = nearest(scheme, _SCHEMES) if "://" in uri else f" For a file here: sqlite:///{Path(uri).name}.db"
        raise ConfigError(f"tracking.uri={redacted(uri)}: not a store of MLflow. Allowed: {', '.join(_SCHEMES)}.{hint}")
    database = sqlite_path(uri)
    if database is None:
        return uri
    if not database.parent.is_dir():
        raise ConfigError(f"tracking.uri={uri}: there is no folder {database.parent}.")
    return f"sqlite:///{database}"


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a SQLite store's file; None for another store."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///(?P<path>[^?]+)(?:\?.*)?", uri)
    return Path(match["path"]).expanduser().absolute() if match else None
