"""hydra/launcher=slurm: the runs of a sweep as jobs of a Slurm cluster. submitit_local: the same way, on this machine.

Both go through submitit: a job is a file in the sweep's folder, which has to be on a disk that the cluster's machines
share with this one, and so has what the runs need (the data, a SQLite store). With Slurm all jobs are queued at once as
one array. This process waits for them: stopped by Ctrl-C it cancels them.
"""

import contextlib
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trilab.errors import UserError
from trilab.ranges import NonNegativeInt, PositiveFloat, PositiveInt
from trilab.runtime import cores
from trilab.sweeps.dispatch import LOOK_S, STOP_S, Pool, WorkerLauncher
from trilab.sweeps.worker import Ended, WorkerJob, has_begun, run_in_worker, stop

#: Minutes that a job on this machine may take: submitit wants a limit, and a user who wants one has trainer.max_time.
_NO_LIMIT_MIN = 60 * 24 * 365


class SubmititLocal(WorkerLauncher):
    """Each run in a process of its own on this machine, which submitit starts as it would on a cluster.

    Args:
        n_jobs: how many at once; None for one to a core.
    """

    def __init__(self, n_jobs: PositiveInt | None) -> None:
        super().__init__()
        self.n_jobs = n_jobs or cores()

    def threads(self) -> int:
        return max(1, cores() // self.n_jobs)

    def pool(self, folder: Path) -> Pool:
        from submitit import LocalExecutor

        executor = LocalExecutor(folder / "submitit")
        executor.update_parameters(timeout_min=_NO_LIMIT_MIN)
        return _Submitted(executor, folder / "submitit", self.n_jobs, local=True)


class Slurm(WorkerLauncher):
    """Each run as a job of a Slurm array.

    Args:
        timeout_min: longest time of a run, in minutes. One that reaches it ends as KILLED, with its last checkpoint.
        cpus_per_task: processors of a run.
        gpus_per_node: GPUs of a run; trainer.devices says how many of them it uses.
        mem_gb: memory of a run, in GB; None for the cluster's own default.
        partition: of the cluster; None for its default.
        qos: quality of service; None for the default.
        account: that pays; None for the default.
        constraint: what the machines must have; None for nothing.
        array_parallelism: runs at once at most.
        signal_delay_s: seconds before `timeout_min` at which a run is asked to save and end.
        setup: shell commands before a run, such as `module load cuda`.
        additional_parameters: further options of sbatch, by their long names.
    """

    ends_with_launcher = False

    def __init__(
        self,
        timeout_min: PositiveInt,
        cpus_per_task: PositiveInt,
        gpus_per_node: NonNegativeInt,
        mem_gb: PositiveFloat | None,
        partition: str | None,
        qos: str | None,
        account: str | None,
        constraint: str | None,
        array_parallelism: PositiveInt,
        signal_delay_s: PositiveInt,
        setup: Sequence[str],
        additional_parameters: Mapping[str, str | int | float | bool],
    ) -> None:
        super().__init__()
        self._cpus = cpus_per_task
        given = {"partition": partition, "qos": qos, "account": account, "constraint": constraint}
        self._parameters: dict[str, Any] = {
            "name": "trilab",
            "timeout_min": timeout_min,
            "cpus_per_task": cpus_per_task,
            "slurm_array_parallelism": array_parallelism,
            "slurm_signal_delay_s": signal_delay_s,
            "slurm_setup": list(setup),
            "slurm_additional_parameters": dict(additional_parameters),
            **{f"slurm_{name}": value for name, value in given.items() if value is not None},
        }
        if gpus_per_node:
            self._parameters["gpus_per_node"] = gpus_per_node
        if mem_gb is not None:
            self._parameters["mem_gb"] = mem_gb

    def threads(self) -> int:
        return self._cpus

    def pool(self, folder: Path) -> Pool:
        from submitit import AutoExecutor

        executor = AutoExecutor(folder / "submitit", cluster="slurm")
        executor.update_parameters(**self._parameters)
        return _Submitted(executor, folder / "submitit", None, local=False)


class _Submitted:
    """Jobs that submitit has submitted.

    Args:
        executor: submitit's.
        folder: of its files.
        room: jobs at once; None to leave that to the cluster.
        local: they run on this machine.
    """

    def __init__(self, executor: Any, folder: Path, room: int | None, local: bool) -> None:
        self.room = room
        self._executor, self._folder, self._local = executor, folder, local
        self._running: dict[int, Any] = {}
        self._why: dict[int, str] = {}

    def start(self, jobs: Sequence[WorkerJob]) -> None:
        with _deaf():
            try:
                if self._local:
                    submitted = [self._executor.submit(run_in_worker, job) for job in jobs]
                else:
                    submitted = self._executor.map_array(run_in_worker, jobs)
            except Exception as error:
                raise UserError(f"Slurm did not take the jobs: {_first_line(error)}") from error
        self._running |= {job.number: own for job, own in zip(jobs, submitted, strict=True)}

    def ended(self, wait_s: float) -> list[tuple[int, Ended | None]]:
        time.sleep(wait_s)
        done = [number for number, job in self._running.items() if job.done()]
        return [(number, self._end(number, self._running.pop(number))) for number in done]

    def _end(self, number: int, job: Any) -> Ended | None:
        end: Ended | None = None
        try:
            if job.paths.result_pickle.exists() or not self._local:
                end = job.result()
        except Exception as error:
            self._why[number] = f"its job {job.job_id} ended as {job.state}: {_first_line(error)}"
        if end is None:
            self._why.setdefault(number, f"the process of its job {job.job_id} was ended (see {job.paths.stderr})")
        return end

    def why(self, number: int) -> str:
        return self._why[number]

    def stop(self, jobs: Sequence[WorkerJob]) -> None:
        begun = {job.number for job in jobs if has_begun(job)}
        for job in jobs if self._local else ():
            stop(job)
        for own in () if self._local else self._running.values():
            own.cancel(check=False)
        deadline = time.monotonic() + STOP_S
        left = [own for number, own in self._running.items() if number in begun]
        while left and time.monotonic() < deadline:
            time.sleep(LOOK_S)
            left = [own for own in left if not own.done()]

    def close(self) -> None:
        for job in self._running.values():
            if self._local:
                _kill(job)
        self._running = {}
        for file in self._folder.glob("*.pkl"):  # the configuration is in them, a store's password too
            file.unlink(missing_ok=True)
        if not any(path.stat().st_size for path in self._folder.glob("*.err")):
            shutil.rmtree(self._folder, ignore_errors=True)


def _kill(job: Any) -> None:
    """Ends what submitit has started here, its own process too."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        whole = psutil.Process(int(job.job_id))
        for process in [*whole.children(recursive=True), whole]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        job._process.wait()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """What is started inside ignores Ctrl-C: this process handles it, and submitit's would kill a run that saves."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _first_line(error: BaseException) -> str:
    lines = [re.sub(r"\s+", " ", line).strip() for line in str(error).splitlines() if line.strip(" -")]
    return (lines or [type(error).__name__])[-1][:200]
