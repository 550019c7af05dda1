"""Metrics on their way into a store, at a cost that the training beside does not feel.

MLflow's own client takes 50 ms of processor time for 1000 metrics on SQLite, most of it with the interpreter locked; a
training thread waits for that. On SQLite the rows are written here by one statement, during which the interpreter is
free; over HTTP the request's body is made from plain values, without MLflow's messages. Other databases, and a SQLite
store whose tables are not as expected, get them through MLflow's client.
"""

import contextlib
import math
import sqlite3
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response
from mlflow.utils.validation import _validate_metric_name

from trilab.tracking.failures import Gone
from trilab.tracking.settings import sqlite_path

#: MLflow's limit on the metrics of one request.
_REQUEST = 1000
#: Rows of one transaction of SQLite, whose end waits for the disk; meanwhile other processes cannot write.
_TRANSACTION = 10_000
#: The largest float64 stands for infinity in MLflow's tables.
_INFINITY = 1.7976931348623157e308
_COLUMNS = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")
_ROW = f"({','.join('?' * len(_COLUMNS))})"
#: SQLite's own limit on variables of a statement is 32766 from 3.32 on.
_ROWS = 500
_BUSY_S = 5.0

#: Name, value, time in milliseconds since 1970, step.
Point = tuple[str, float, int, int]


class PointWriter:
    """Writes metrics to a store.

    Writing the same points twice leaves them once: MLflow's tables have name, time, step and value as their key.

    Args:
        client: of the store.
        uri: the store.
    """

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client = client
        self._uri = uri
        self._database = sqlite_path(uri)
        self._as_expected: bool | None = None
        self._good_names: set[str] = set()

    @property
    def limit(self) -> int:
        """How many points are written at once."""
        return _TRANSACTION if self._database is not None and self._as_expected else _REQUEST

    def write(self, run_id: str, points: Sequence[Point]) -> None:
        """Writes at most `limit` points.

        Raises:
            Gone: the run was deleted.
            Exception: of the store.
        """
        for name in {point[0] for point in points} - self._good_names:
            _validate_metric_name(name)
            self._good_names.add(name)
        if self._database is not None and self._as_expected is not False:
            with contextlib.closing(sqlite3.connect(self._database, _BUSY_S, isolation_level=None)) as connection:
                if self._as_expected is None:
                    self._as_expected = _is_as_expected(connection)
                if self._as_expected:
                    _insert(connection, run_id, points)
                    return
        if self._uri.startswith("http"):
            self._post(run_id, points)
            return
        self._client.log_batch(run_id, metrics=[Metric(*point) for point in points])

    def _post(self, run_id: str, points: Sequence[Point]) -> None:
        path = "/api/2.0/mlflow/runs/log-batch"
        metrics = [
            {"key": key, "value": value if math.isfinite(value) else _spelled(value), "timestamp": time, "step": step}
            for key, value, time, step in points
        ]
        answer = http_request(
            get_default_host_creds(self._uri),
            path,
            "POST",
            json={"run_id": run_id, "metrics": metrics},
            max_retries=0,
            raise_on_status=False,
        )
        verify_rest_response(answer, path)


def _spelled(value: float) -> str:
    """As the JSON form of protocol buffers has it: https://protobuf.dev/programming-guides/json/."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _is_as_expected(connection: sqlite3.Connection) -> bool:
    tables = ("metrics", "latest_metrics")
    return all({row[1] for row in connection.execute(f"PRAGMA table_info({t})")} == set(_COLUMNS) for t in tables)


def _insert(connection: sqlite3.Connection, run_id: str, points: Sequence[Point]) -> None:
    if math.isfinite(sum(point[1] for point in points)):
        rows = [(key, value, time, step, False, run_id) for key, value, time, step in points]
    else:
        rows = [_row(point, run_id) for point in points]
    latest: dict[str, tuple[float | int | str, ...]] = {}
    for row in rows:
        before = latest.get(row[0])
        if before is None or (row[3], row[2], row[1]) > (before[3], before[2], before[1]):
            latest[row[0]] = row
    columns = ",".join(_COLUMNS)
    connection.execute("BEGIN IMMEDIATE")
    try:
        stage = connection.execute("SELECT lifecycle_stage FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
        if stage is None or stage[0] != "active":
            raise Gone(run_id)
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            # INSERT OR IGNORE would hide other errors than that the point is there already.
            connection.execute(
                f"INSERT INTO metrics ({columns}) VALUES {','.join([_ROW] * len(part))} ON CONFLICT DO NOTHING",
                [value for row in part for value in row],
            )
        # MLflow's own rule: the later step counts, then the later time, then the larger value.
        connection.executemany(
            f"INSERT INTO latest_metrics ({columns}) VALUES {_ROW} ON CONFLICT (key, run_uuid) DO UPDATE SET "
            "value = excluded.value, timestamp = excluded.timestamp, step = excluded.step, is_nan = excluded.is_nan "
            "WHERE (excluded.step, excluded.timestamp, excluded.value) > "
            "(latest_metrics.step, latest_metrics.timestamp, latest_metrics.value)",
            list(latest.values()),
        )
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _row(point: Point, run_id: str) -> tuple[str, float, int, int, bool, str]:
    key, value, time, step = point
    if math.isnan(value):
        return key, 0.0, time, step, True, run_id
    return key, min(max(value, -_INFINITY), _INFINITY), time, step, False, run_id
