"""MLflow servers that can be stopped and started."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.serving import BaseWSGIServer, make_server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """MLflow's own server on the store of a folder, in a thread: starts and stops in milliseconds.

    While it is stopped its port refuses connections, as that of a server that has crashed.
    """

    def __init__(self, folder: Path) -> None:
        self.database = f"sqlite:///{folder / 'mlflow.db'}"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._server: BaseWSGIServer | None = None

    def start(self) -> None:
        from mlflow.server import app

        self._server = make_server("127.0.0.1", self.port, app, threaded=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def served(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that is up, on the store of a folder."""
    from mlflow.server import handlers

    made = Server(workdir)
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", made.database)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", (workdir / "mlartifacts").as_uri())
    monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
    for name in ("_tracking_store", "_model_registry_store", "_artifact_repo"):
        monkeypatch.setattr(handlers, name, None, raising=False)
    made.start()
    yield made
    made.stop()


class RealServer:
    """`mlflow server` as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.database = f"sqlite:///{folder / 'mlflow.db'}"
        self._folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.database, "--workers", "1"]
        command += ["--artifacts-destination", str(self._folder / "mlartifacts"), "--port", str(self.port)]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None
