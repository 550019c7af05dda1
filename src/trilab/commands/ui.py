"""trilab ui: open the MLflow UI on the store that the runs went to

usage: trilab ui [port=5000] [tracking.uri=URI]

Runs whose processes are gone are ended first, and what could not be sent is sent. Then the address is printed, and
those of the runs of the latest experiments, each with the columns that matter there.

The store is tracking.uri, else $MLFLOW_TRACKING_URI, else ./mlflow.db, as for trilab train. The server listens on
127.0.0.1 alone, on the given port, or on the first free one from 5000 on; Ctrl-C stops it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import IO

from trilab.errors import ConfigError, UserError
from trilab.signals import Interrupted
from trilab.tracking.settings import redacted, sqlite_path, store_uri

_HOST, _FIRST_PORT, _TRIES = "127.0.0.1", 5000, 100
_START_S = 60.0
#: Longest time for runs that earlier processes left behind, in seconds; what is not done then is left to trilab sync.
_RECOVERY_S = 10.0
#: How many experiments' pages are named.
_MOST_PAGES = 8


def main(argv: list[str]) -> int:
    """Serves the UI until it is stopped."""
    options = dict(argument.partition("=")[::2] for argument in argv)
    unknown = set(options) - {"port", "tracking.uri"}
    if unknown:
        raise ConfigError(f"ui: unknown argument '{min(unknown)}'. Allowed: port=..., tracking.uri=...")
    uri = store_uri(options.get("tracking.uri") or os.environ.get("MLFLOW_TRACKING_URI"))
    if uri.startswith("http"):
        print(f"The store has a UI of its own: {redacted(uri)}")
        return 0
    port = _port(options.get("port"))
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise UserError(f"There is no store {database} yet: run trilab train first, or give tracking.uri=...")
    _recover(uri)
    return serve(uri, port)


def _recover(uri: str) -> None:
    """Ends the runs that their processes left without a word, and sends what they could not; for so long at most."""
    from trilab.tracking.recovery import Recovered, Recovery
    from trilab.tracking.spool import spool_folder

    recovery = Recovery(spool_folder(), uri)
    recovery.close(_RECOVERY_S)
    done: list[Recovered] = recovery.results
    ended = sum(one.status == "KILLED" and one.problem is None for one in done)
    sent = sum(one.sent for one in done)
    if ended or sent:
        print(f"{ended} runs whose processes are gone are KILLED now; {sent} records that had waited were sent")


def serve(uri: str, port: int) -> int:
    """Runs MLflow's server on a store until it ends or a signal comes; leaves no process behind."""
    database = sqlite_path(uri)
    artifacts = ["--default-artifact-root", (database.parent / "mlartifacts").as_uri()] if database else []
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, *artifacts]
    command += ["--host", _HOST, "--port", str(port), "--workers", "1"]
    # A session of its own: one signal reaches the server and the workers that it starts.
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed below, with the server that writes to it
    # MLflow's runner of background jobs serves evaluations of language models; without it the UI starts sooner.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, env=environment, start_new_session=True, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://{_HOST}:{port}"
    try:
        _wait(address, server, log)
        lines = [f"MLflow UI of {redacted(uri)}", f"  {address}", *_pages(uri, address), "Ctrl-C stops it."]
        print("\n".join(lines), flush=True)
        return server.wait()
    except Interrupted as interruption:
        if interruption.signum != signal.SIGINT:
            raise
        print("\nstopped")
        return 0
    finally:
        _stop(server)
        log.close()


def _pages(uri: str, address: str) -> list[str]:
    """A line for each of the experiments that were written last: the page of its runs, with the columns that matter."""
    with contextlib.suppress(Exception):  # the UI is there without them
        from trilab.tracking.pages import runs_page
        from trilab.tracking.store import MlflowClient

        found = MlflowClient(uri).search_experiments(order_by=["last_update_time DESC"], max_results=_MOST_PAGES + 1)
        named = [one for one in found if one.experiment_id != "0"][:_MOST_PAGES]
        width = max((len(one.name) for one in named), default=0)
        return [f"  {one.name:<{width}}  {runs_page(address, one.experiment_id, one.tags)}" for one in named]
    return []


def _wait(address: str, server: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise UserError(f"The MLflow server did not start: {lines[-1] if lines else 'no message'}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise UserError(f"The MLflow server did not answer at {address} within {_START_S:.0f} s.")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, signum)
        except ProcessLookupError:
            break
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue


def _port(given: str | None) -> int:
    if given is None:
        for port in range(_FIRST_PORT, _FIRST_PORT + _TRIES):
            if _free(port):
                return port
        raise UserError(f"No free port from {_FIRST_PORT} to {_FIRST_PORT + _TRIES - 1}. Give one: trilab ui port=...")
    if not given.isdigit() or not 0 < int(given) < 65_536:
        raise ConfigError(f"port={given}: expected a whole number from 1 to 65535.")
    if not _free(int(given)):
        raise UserError(f"port={given} is taken. Leave it out, and the first free one is used.")
    return int(given)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True
