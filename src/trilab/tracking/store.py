"""The first contact with an MLflow store: made once at a time, so that its tables are created once."""

import contextlib
import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies

from filelock import FileLock

from trilab.errors import UserError
from trilab.tracking.settings import Tracking, redacted, sqlite_path

# An unreachable server should be reported within seconds, not after MLflow's own minutes of retries; what goes to a
# server while a run trains is retried by the run's sender.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # the summary says it
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# What a user runs is nobody else's business.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retry would be a line, with the server's address

from mlflow import MlflowClient  # noqa: E402 - reads the environment and the log level at import
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.store.tracking import sqlalchemy_store  # noqa: E402, F401 - otherwise imported while the first run opens
from mlflow.utils.credentials import get_default_host_creds  # noqa: E402
from mlflow.utils.rest_utils import http_request  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from trilab.tracking.failures import Unreachable, is_outage, reason  # noqa: E402
from trilab.tracking.pages import experiment_tags  # noqa: E402

logging.getLogger("mlflow").setLevel(logging.WARNING)


#: Longest wait for another process's first contact, in seconds; it takes 2 where the tables have to be made.
_LOCK_S = 300
#: Longest wait for a server's first answer, and for a database that another process has locked, in seconds.
_ANSWER_S = 5


def connect(settings: Tracking) -> tuple[MlflowClient, str]:
    """A client of the store, and the id of the experiment there, made if it is new.

    A fresh SQLite store that several processes open at once breaks in its first migration (1 of 8 processes survives
    it), so the first contact of each process is made under a file lock.

    Raises:
        Unreachable: the store does not answer, or is locked or full: that may pass.
        UserError: the store cannot be used as it is named.
    """
    where = redacted(settings.uri)
    try:
        with _first_contact(settings.uri):
            _probe(settings)
            client = MlflowClient(settings.uri)
            return client, experiment_of(client, settings.experiment_name, settings.artifact_root)
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        kind = Unreachable if is_outage(error) else UserError
        raise kind(f"Cannot use the tracking store {where}: {reason(error)}") from error
    except OSError as error:
        raise UserError(f"Cannot write the tracking store {where}: {error}") from error


def experiment_of(client: MlflowClient, name: str, artifact_root: str | None) -> str:
    """The id of an experiment, made if it is new.

    Raises:
        UserError: it was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        # A folder per experiment, as MLflow itself would make; slashes in names would nest folders.
        location = f"{artifact_root}/{name.replace('/', '_')}" if artifact_root else None
        try:
            return str(client.create_experiment(name, location, experiment_tags(name)))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"The MLflow experiment '{name}' was deleted. Restore it in the UI, or name another: "
            "tracking.experiment_name=..."
        )
    return str(found.experiment_id)


def _probe(settings: Tracking) -> None:
    """Asks once, so that what is wrong is known within seconds, and what of it may pass."""
    database = sqlite_path(settings.uri)
    if database is not None:
        if database.exists():
            with contextlib.closing(sqlite3.connect(database, timeout=_ANSWER_S)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return
    if not settings.uri.startswith("http"):
        return
    where = redacted(settings.uri)
    _resolve(settings.uri, where)
    answer = http_request(
        get_default_host_creds(settings.uri),
        "/api/2.0/mlflow/experiments/get-by-name",
        "GET",
        params={"experiment_name": settings.experiment_name},
        max_retries=0,
        timeout=_ANSWER_S,
        raise_on_status=False,
    )
    status = answer.status_code
    if status in (401, 403):
        raise UserError(
            f"The tracking store {where} refused the credentials ({status}). Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if status >= 500 or status in (408, 429):
        raise Unreachable(f"The tracking store {where} does not work now (HTTP {status}).")
    if status != 200 and not (status == 404 and "error_code" in answer.text):
        raise UserError(f"{where} answers (HTTP {status}), but not as an MLflow server does. Is the address right?")


def _resolve(uri: str, where: str) -> None:
    parts = urlsplit(uri)
    if not parts.hostname:
        raise UserError(f"tracking.uri={where}: no host in it. Expected http://HOST:PORT.")
    if parts.scheme in getproxies():
        return  # a proxy may know hosts that this machine does not
    try:
        socket.getaddrinfo(parts.hostname, parts.port or parts.scheme)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            raise UserError(f"tracking.uri={where}: there is no host {parts.hostname}.") from error
        raise Unreachable(f"Cannot look up the host of the tracking store {where}: {error.strerror}.") from error


@contextlib.contextmanager
def _first_contact(uri: str) -> Iterator[None]:
    database = sqlite_path(uri)
    if database is None:
        yield
        return
    with FileLock(f"{database}.lock", timeout=_LOCK_S):  # its Timeout is an OSError
        yield
