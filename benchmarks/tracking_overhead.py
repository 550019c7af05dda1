"""What logging ten metrics at every step adds to a training, on SQLite and on an HTTP server.

    python benchmarks/tracking_overhead.py [--windows 5] [--seconds 5]

A step of a small MLP, alone and with each logger, in windows that take turns in one process with one torch thread. The
server is MLflow's own, started for it. A window is longer than tracking.flush_s, so that what the background thread
does is inside; what is still unsent at its end is sent before the next window begins, outside the clock. At the end
every point is counted.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trilab.runtime import prepare_imports

prepare_imports()

import torch  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from pytorch_lightning.loggers import MLFlowLogger  # noqa: E402

from trilab.timing import interleave, quartiles  # noqa: E402
from trilab.tracking.logger import MlflowLogger  # noqa: E402
from trilab.tracking.run import open_run  # noqa: E402
from trilab.tracking.settings import Tracking  # noqa: E402

METRICS, BATCH = 10, 128

Log = Callable[[Mapping[str, float], int], object]


@dataclass
class Steps:
    """Training steps that log as they go.

    Args:
        name: in the table.
        seconds: of a window, at least.
        log: takes the metrics and the step.
        settle: called after each window, outside the clock.
    """

    name: str
    seconds: float
    log: Log | None = None
    settle: Callable[[], object] = lambda: None
    steps: int = field(default=0, init=False)
    settling_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self._model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
        self._optimizer = torch.optim.Adam(self._model.parameters(), fused=True)
        self._input, self._target = torch.randn(BATCH, 64), torch.randn(BATCH, 1)
        self.window(1.0)

    def window(self, seconds: float | None = None) -> float:
        """Seconds per step."""
        first, start = self.steps, time.perf_counter()
        while (now := time.perf_counter()) - start < (seconds or self.seconds):
            for _ in range(10):
                self._step()
        settling = time.perf_counter()
        self.settle()
        self.settling_s += time.perf_counter() - settling
        return (now - start) / (self.steps - first)

    def _step(self) -> None:
        loss = torch.nn.functional.mse_loss(self._model(self._input), self._target)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self.log is not None:
            # Numbers as they are: reading the loss from the device would be a cost of its own.
            self.log({f"train/metric_{k}": self.steps / (k + 3) for k in range(METRICS)}, self.steps)
        self.steps += 1


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """MLflow's server on a free port, with a SQLite database of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{address}/health", timeout=2).close()
                    break
                if time.monotonic() > deadline:
                    raise SystemExit(f"the server did not start: {(folder / 'server.log').read_text()[-500:]}")
                time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, 15)
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--windows", type=int, default=5, help="of each")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a window, at least")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tracking-overhead-")))
        stores = {"SQLite": f"sqlite:///{folder / 'mlflow.db'}", "HTTP": stack.enter_context(server(folder))}
        arms, ours = [Steps("no logger", options.seconds)], []
        for store, uri in stores.items():
            settings = Tracking("overhead", uri=uri, system_metrics=False, spool=str(folder / "spool"), wait_s=60)
            run = stack.enter_context(open_run(settings, "trilab", {}))
            arm = Steps(f"trilab, {store}", options.seconds, MlflowLogger(run, folder).log_metrics, run.flush)
            ours.append((arm, run.id, uri))
            theirs = MLFlowLogger("overhead", tracking_uri=uri)
            arms += [arm, Steps(f"Lightning's MLFlowLogger, {store}", options.seconds, theirs.log_metrics)]
        times = interleave(arms, options.windows)
        print("| logger | ms a step, median | quartiles | added by logging, median of the turns | quartiles |")
        print("| --- | --- | --- | --- | --- |")
        alone = times["no logger"]
        for name, values in times.items():
            step = quartiles(values).scaled(1000)
            row = f"| {name} | {step.median:.3f} | {step.low:.3f} to {step.high:.3f} |"
            if values is alone:
                row += " | |"
            else:
                added = quartiles([one - other for one, other in zip(values, alone, strict=True)]).scaled(1000)
                row += f" {added.median:.3f} | {added.low:.3f} to {added.high:.3f} |"
            print(row)
        for arm, run_id, uri in ours:
            client = MlflowClient(uri)
            there = [len(client.get_metric_history(run_id, f"train/metric_{k}")) for k in range(METRICS)]
            print(f"{arm.name}: {METRICS * arm.steps} points logged, {sum(there)} in the store; sent between windows "
                  f"for {arm.settling_s:.1f} s in all")  # fmt: skip


if __name__ == "__main__":
    main()
