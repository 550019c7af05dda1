"""hydra/launcher=ray: the runs of a sweep as tasks of a Ray cluster, one started here for them or one that runs."""

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trilab.errors import UserError
from trilab.ranges import NonNegativeFloat, PositiveInt
from trilab.runtime import cores
from trilab.sweeps.dispatch import STOP_S, Pool, WorkerLauncher
from trilab.sweeps.worker import Ended, WorkerJob, has_begun, run_in_worker, stop


class Ray(WorkerLauncher):
    """Tasks of Ray.

    Args:
        address: of a running cluster (`auto`, or `HOST:PORT`); None starts one on this machine, for this sweep alone.
        num_cpus: processors of a cluster that is started; None for all of this machine.
        cpus_per_run: processors of a run, and its torch threads.
        gpus_per_run: GPUs of a run; below 1 for several runs on one.
    """

    def __init__(
        self,
        address: str | None,
        num_cpus: PositiveInt | None,
        cpus_per_run: PositiveInt,
        gpus_per_run: NonNegativeFloat,
    ) -> None:
        super().__init__()
        self._address, self._num_cpus = address, num_cpus or cores()
        self._cpus, self._gpus = cpus_per_run, gpus_per_run
        # A run's process on another machine cannot see this one; Ray itself ends the tasks of one that is gone.
        self.ends_with_launcher = address is None

    def threads(self) -> int:
        return self._cpus

    def pool(self, folder: Path) -> Pool:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what a user runs is nobody else's business
        import ray

        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=self._address or "local",
                num_cpus=self._num_cpus if self._address is None else None,
                include_dashboard=False if self._address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"hydra.launcher.address={self._address}: {' '.join(str(error).split())[:200]}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray has put its own there
        most = ray.cluster_resources()
        for name, wanted in (("CPU", self._cpus), ("GPU", self._gpus)):
            if wanted > most.get(name, 0):
                ray.shutdown()
                raise UserError(
                    f"hydra.launcher.{name.lower()}s_per_run={wanted}: the Ray cluster has {most.get(name, 0):g}, and "
                    "such a run would wait for ever."
                )
        task = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0)(run_in_worker)
        return _Tasks(task, self._address is None)


class _Tasks:
    """Running tasks.

    Args:
        task: Ray's, of one job.
        local: they run on this machine.
    """

    room = None

    def __init__(self, task: Any, local: bool) -> None:
        self._task, self._local = task, local
        self._running: dict[Any, int] = {}
        self._why: dict[int, str] = {}

    def start(self, jobs: Sequence[WorkerJob]) -> None:
        self._running |= {self._task.remote(job): job.number for job in jobs}

    def ended(self, wait_s: float) -> list[tuple[int, Ended | None]]:
        import ray

        done, _ = ray.wait(list(self._running), num_returns=1, timeout=wait_s)
        ends: list[tuple[int, Ended | None]] = []
        for reference in done:
            number = self._running.pop(reference)
            try:
                ends.append((number, ray.get(reference)))
            except ray.exceptions.RayError as error:
                self._why[number] = f"its process is gone: {type(error).__name__}"
                ends.append((number, None))
        return ends

    def why(self, number: int) -> str:
        return self._why[number]

    def stop(self, jobs: Sequence[WorkerJob]) -> None:
        import ray

        begun = {job.number for job in jobs if has_begun(job)}
        for reference, number in self._running.items():
            if not self._local or number not in begun:
                ray.cancel(reference, force=False)
        for job in jobs:
            if self._local:
                stop(job)
        left = [reference for reference, number in self._running.items() if not self._local or number in begun]
        deadline = time.monotonic() + STOP_S
        while left and time.monotonic() < deadline:
            _, left = ray.wait(left, num_returns=len(left), timeout=1.0)

    def close(self) -> None:
        import ray

        ray.shutdown()
