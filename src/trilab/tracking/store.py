"""The first contact with an MLflow store: made once at a time, so that its tables are created once."""

import contextlib
import logging
import os
from collections.abc import Iterator

from filelock import FileLock

from trilab.errors import UserError
from trilab.tracking.settings import Tracking, redacted, sqlite_path

# An unreachable server should be reported within seconds, not after MLflow's own minutes of retries.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # the summary says it
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# What a user runs is nobody else's business.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

from mlflow import MlflowClient  # noqa: E402 - reads the environment and the log level at import
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.store.tracking import sqlalchemy_store  # noqa: E402, F401 - otherwise imported while the first run opens
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

logging.getLogger("mlflow").setLevel(logging.WARNING)


#: Longest wait for another process's first contact, in seconds; it takes 2 where the tables have to be made.
_LOCK_S = 300


def connect(settings: Tracking) -> tuple[MlflowClient, str]:
    """A client of the store, and the id of the experiment there, made if it is new.

    A fresh SQLite store that several processes open at once breaks in its first migration (1 of 8 processes survives
    it), so the first contact of each process is made under a file lock.

    Raises:
        UserError: the store cannot be reached or written.
    """
    try:
        with _first_contact(settings.uri):
            client = MlflowClient(settings.uri)
            return client, _experiment(client, settings)
    except (MlflowException, SQLAlchemyError) as error:
        reason = " ".join(str(error).partition("[SQL:")[0].split())
        raise UserError(f"Cannot use the tracking store {redacted(settings.uri)}: {redacted(reason)[:300]}") from error
    except OSError as error:
        raise UserError(f"Cannot write the tracking store {redacted(settings.uri)}: {error}") from error


def _experiment(client: MlflowClient, settings: Tracking) -> str:
    found = client.get_experiment_by_name(settings.experiment_name)
    if found is None:
        # The kind makes MLflow's pages open on runs and charts rather than on traces of language models.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(settings.experiment_name, _artifacts(settings), kind))
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"The MLflow experiment '{settings.experiment_name}' was deleted. Restore it in the UI, or name another: "
            "tracking.experiment_name=..."
        )
    return str(found.experiment_id)


def _artifacts(settings: Tracking) -> str | None:
    if settings.artifact_root is None:
        return None
    # A folder per experiment, as MLflow itself would make; slashes in names would nest folders.
    return f"{settings.artifact_root}/{settings.experiment_name.replace('/', '_')}"


@contextlib.contextmanager
def _first_contact(uri: str) -> Iterator[None]:
    database = sqlite_path(uri)
    if database is None:
        yield
        return
    with FileLock(f"{database}.lock", timeout=_LOCK_S):  # its Timeout is an OSError
        yield
