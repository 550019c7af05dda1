"""hydra/launcher=joblib: the runs of a sweep in processes of this machine."""

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from trilab.ranges import PositiveInt
from trilab.runtime import cores
from trilab.sweeps.dispatch import STOP_S, Pool, WorkerLauncher
from trilab.sweeps.worker import Ended, WorkerJob, has_begun, run_in_worker, stop


class Joblib(WorkerLauncher):
    """Processes that each make one run after the other.

    Args:
        n_jobs: how many at once; None for one to a core.
    """

    def __init__(self, n_jobs: PositiveInt | None) -> None:
        super().__init__()
        self.n_jobs = n_jobs or cores()

    def threads(self) -> int:
        return max(1, cores() // self.n_jobs)

    def pool(self, folder: Path) -> Pool:
        return _Workers(self.n_jobs)


class _Workers:
    """joblib's processes, each with a queue of its own: one that is killed takes no other run with it.

    joblib.Parallel ends all of its processes where it loses one.
    """

    def __init__(self, count: int) -> None:
        self.room = count
        self._free: list[Any] = []
        self._running: dict[Future[Ended], tuple[int, Any]] = {}
        self._why: dict[int, str] = {}

    def start(self, jobs: Sequence[WorkerJob]) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        for job in jobs:
            worker = self._free.pop() if self._free else ProcessPoolExecutor(max_workers=1)
            self._running[worker.submit(run_in_worker, job)] = job.number, worker

    def ended(self, wait_s: float) -> list[tuple[int, Ended | None]]:
        done, _ = wait(self._running, wait_s, return_when="FIRST_COMPLETED")
        ends: list[tuple[int, Ended | None]] = []
        for future in done:
            number, worker = self._running.pop(future)
            error = future.exception()
            if error is None:
                self._free.append(worker)
                ends.append((number, future.result()))
            else:
                self._why[number] = _reason(error)
                worker.shutdown(wait=False, kill_workers=True)
                ends.append((number, None))
        return ends

    def why(self, number: int) -> str:
        return self._why[number]

    def stop(self, jobs: Sequence[WorkerJob]) -> None:
        begun = {job.number for job in jobs if has_begun(job)}
        for job in jobs:
            stop(job)
        wait([future for future, (number, _) in self._running.items() if number in begun], STOP_S)

    def close(self) -> None:
        for worker in [*self._free, *(worker for _, worker in self._running.values())]:
            with contextlib.suppress(Exception):
                worker.shutdown(wait=True, kill_workers=True)
        self._free, self._running = [], {}


def _reason(error: BaseException) -> str:
    text = str(error)
    _, found, codes = text.partition("The exit codes of the workers are ")
    name = codes.partition("}")[0].strip("{ ").partition("(")[0] if found else ""
    return f"its process was ended by {name}" if name.startswith("SIG") else f"its process ended: {text.split('.')[0]}"
