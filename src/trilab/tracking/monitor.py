"""The use of processor, memory, disk, network and GPU, sampled beside the training."""

import contextlib
import threading
from collections.abc import Callable, Mapping

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor


class SystemMonitor:
    """Samples MLflow's system metrics, and records them like any others.

    MLflow's own thread for it asks the store at each sample, and ends for good when that does not answer.

    Args:
        record: takes the metrics and their step, which counts the samples.
        interval_s: between two samples, in seconds.
        first: step of the first.
    """

    def __init__(self, record: Callable[[Mapping[str, float], int], None], interval_s: float, first: int = 0) -> None:
        self._record = record
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._step = first
        self._thread = threading.Thread(target=self._work, name="trilab-system-metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends it. A run shorter than the interval still has one sample."""
        self._stop.set()
        self._thread.join(timeout=self._interval_s)

    def _work(self) -> None:
        monitors = _monitors()
        while True:
            metrics: dict[str, float] = {}
            for monitor in monitors:
                with contextlib.suppress(Exception):  # a GPU that is busy with something else
                    monitor.collect_metrics()
                    metrics |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            self._record({f"system/{name}": value for name, value in metrics.items()}, self._step)
            self._step += 1
            if self._stop.wait(self._interval_s):
                return


def _monitors() -> list[BaseMetricsMonitor]:
    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for kind in (GPUMonitor, ROCMMonitor):
        with contextlib.suppress(Exception):  # each raises where its driver or library is absent
            monitors.append(kind())
            break
    return monitors
