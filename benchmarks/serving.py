"""How fast a served model answers over HTTP, one row at a time and 256 at a time, for each field.

    python benchmarks/serving.py [--requests 300] [--warm-up 30] [--clients 4] [--threads 1]

For each field a short run is trained, and `trilab serve` is started on it, and on its registered model. Requests go
over one kept connection to 127.0.0.1, one after the other: latency from the first byte sent to the last one read, the
encoding of the request left out. Throughput is that of `--clients` connections at once, each with its own requests in
turn, in rows by the second. The model's own part, called in the server's process without HTTP, is not measured here.

Everything happens in a temporary folder.
"""

import argparse
import base64
import http.client
import io
import json
import os
import platform
import re
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHORT = ["tracking.system_metrics=false", "trainer.max_epochs=1"]
FIELDS = {
    "rl/double_dqn_cartpole": ["data.total_env_steps=2000", "data.env_steps_per_epoch=1000", "data.val_episodes=2"],
    "recsys/deepfm_synthetic": ["data.train_rows=20000", "data.val_rows=2000", "data.test_rows=2000"],
    "vision/mnist_cnn": ["trainer.limit_train_batches=20", "data.download=false"],
}


def content_of(field: str, rows: int, schema: dict[str, Any]) -> dict[str, Any]:
    """A request of random values."""
    generator = np.random.default_rng(0)
    if field.startswith("rl/"):
        return {"observations": generator.normal(size=(rows, 4)).round(4).tolist()}
    if field.startswith("vision/"):
        return {"images": [png(generator.integers(0, 256, (28, 28), np.uint8)) for _ in range(rows)]}
    columns = schema["components"]["schemas"]["Row"]["properties"]
    return {"rows": [dict.fromkeys(columns, 1) for _ in range(rows)]}


def png(pixels: np.ndarray) -> str:
    """A PNG file in base64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


class Server:
    """`trilab serve` in a process of its own."""

    def __init__(self, folder: Path, what: str, threads: int) -> None:
        command = [sys.executable, "-m", "trilab", "serve", what, "accelerator=cpu", f"accelerator.threads={threads}"]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if match := re.search(r"http://127\.0\.0\.1:(\d+)/predict", line):
                self.port = int(match[1])
                return
        sys.exit(f"{' '.join(command)} failed:\n{said}")

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.connect()
        return connection

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=30)


def ask(connection: http.client.HTTPConnection, body: bytes) -> float:
    """Seconds of one request, which has to succeed."""
    start = time.perf_counter()
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    seconds = time.perf_counter() - start
    if answer.status != 200:
        sys.exit(f"{answer.status}: {content.decode()[:300]}")
    return seconds


def latencies(server: Server, body: bytes, requests: int, warm_up: int) -> list[float]:
    """Milliseconds of each request over one connection."""
    connection = server.connect()
    for _ in range(warm_up):
        ask(connection, body)
    found = [1000 * ask(connection, body) for _ in range(requests)]
    connection.close()
    return found


def throughput(server: Server, body: bytes, requests: int, clients: int) -> float:
    """Requests by the second of several connections at once."""

    def work() -> None:
        connection = server.connect()
        for _ in range(requests // clients):
            ask(connection, body)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return requests // clients * clients / (time.perf_counter() - start)


def trilab(folder: Path, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "trilab", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"trilab {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300, help="that are measured, of each kind")
    parser.add_argument("--warm-up", type=int, default=30, help="that are not")
    parser.add_argument("--clients", type=int, default=4, help="connections at once, of the throughput")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in the server")
    options = parser.parse_args()
    os.environ["TRILAB_DATA_DIR"] = str(Path(os.environ.get("TRILAB_DATA_DIR", "data")).absolute())
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), {options.requests} requests, torch threads {options.threads}\n"
    )
    columns = ["model", "served from", "rows", "p50 ms", "p99 ms", "requests/s", "rows/s"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for field, overrides in FIELDS.items():
            trilab(folder, "train", f"experiment={field}", *SHORT, *overrides)
            with sqlite3.connect(folder / "mlflow.db") as store:
                [(run,)] = store.execute("select run_uuid from runs order by start_time desc limit 1").fetchall()
            registered = field.replace("/", "-")
            trilab(folder, "register", run, "--name", registered, "--alias", "champion")
            for kind, what in (("run", run), ("registry", f"models:/{registered}@champion")):
                server = Server(folder, what, options.threads)
                connection = server.connect()
                connection.request("GET", "/openapi.json")
                schema = json.load(connection.getresponse())
                connection.close()
                for rows in (1, 256):
                    body = json.dumps(content_of(field, rows, schema)).encode()
                    found = latencies(server, body, options.requests, options.warm_up)
                    cuts = statistics.quantiles(found, n=100)
                    rate = throughput(server, body, options.requests, options.clients)
                    numbers = f"{cuts[49]:.2f} | {cuts[98]:.2f} | {rate:,.0f} | {rate * rows:,.0f}"
                    print(f"| {field} | {kind} | {rows} | {numbers} |", flush=True)
                server.stop()


if __name__ == "__main__":
    main()
