"""What trilab's launchers have in common: jobs are handed to workers as these are free, whatever becomes of the others.

A launcher says where its workers are (`WorkerLauncher.pool`). A run that fails has told so itself; of one whose process
is gone without a word, a line is written here. Where the launching process is asked to stop, it asks the workers to,
gives them time to save and to end their runs, and leaves none behind.
"""

import contextlib
from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from trilab.signals import shielded
from trilab.sweeps.worker import Ended, WorkerJob


class Pool(Protocol):
    """Where jobs run."""

    @property
    def room(self) -> int | None:
        """How many at once; None for as many as there are."""
        ...

    def start(self, jobs: Sequence[WorkerJob]) -> None:
        """Begins some jobs, and does not wait for them."""
        ...

    def ended(self, wait_s: float) -> list[tuple[int, Ended | None]]:
        """Numbers of jobs that have ended meanwhile, after so many seconds at most; None where a process vanished."""
        ...

    def why(self, number: int) -> str:
        """What became of a process that vanished, in words."""
        ...

    def stop(self, jobs: Sequence[WorkerJob]) -> None:
        """Asks running jobs to save and end, and waits for it; what has not ended in time is killed."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


#: Seconds between two looks at the workers.
LOOK_S = 0.2
#: Longest wait for runs that were asked to stop, in seconds.
STOP_S = 60.0


class WorkerLauncher(Launcher):
    """Base of the launchers that run jobs in processes of their own."""

    def __init__(self) -> None:
        self._config: DictConfig | None = None
        self._context: HydraContext | None = None
        self._task: TaskFunction | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self._context, self._task = config, hydra_context, task_function

    @abstractmethod
    def pool(self, folder: Path) -> Pool:
        """Where the jobs of one call run.

        Args:
            folder: of the sweep.
        """

    @abstractmethod
    def threads(self) -> int | None:
        """Of a run, where its configuration leaves them open; None for all cores of its machine."""

    #: Whether runs end with the process that launched them.
    ends_with_launcher = True

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs all jobs and waits for them."""
        assert self._config is not None
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        folder = Path(str(self._config.hydra.sweep.dir)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        overrides = {initial_job_idx + place: list(own) for place, own in enumerate(job_overrides)}
        ends: dict[int, Ended] = {}
        all_told = False
        pool = self.pool(folder)
        try:
            # Closed before the pool is: wherever a signal arrives, what runs is asked to stop first.
            with contextlib.closing(dispatch(pool, self._jobs(overrides), len(overrides))) as ended:
                for job, end in ended:
                    end = end or Ended(error=pool.why(job.number), vanished=True)
                    if end.error is not None:
                        note_lost(job, overrides[job.number], end.error)
                    ends[job.number] = end
            all_told = not any(end.vanished for end in ends.values())
        finally:
            pool.close()
            if not all_told:
                end_lost(self._config)
        return [_returned(overrides[number], ends[number]) for number in overrides]

    def _jobs(self, overrides: dict[int, list[str]]) -> Iterator[WorkerJob]:
        """Composed one by one, as they are wanted, so that the first need not wait for the last."""
        from trilab.tracking.process import process_tags

        assert self._context is not None
        assert self._config is not None
        assert self._task is not None
        for number, own in overrides.items():
            config = self._context.config_loader.load_sweep_config(self._config, own)
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            yield WorkerJob(
                number,
                config,
                _folder(config),
                self._task,
                self.threads(),
                process_tags() if self.ends_with_launcher else {},
            )


def dispatch(
    pool: Pool, jobs: Iterator[WorkerJob], count: int
) -> Generator[tuple[WorkerJob, Ended | None], None, None]:
    """Hands jobs to a pool as it has room, and gives each with how it ended; None where its process vanished.

    Args:
        pool: where they run.
        jobs: in their order.
        count: how many there are.
    """
    running: dict[int, WorkerJob] = {}
    started = 0
    try:
        while started < count or running:
            room = count if pool.room is None else pool.room
            batch: list[WorkerJob] = []
            while started < count and len(running) < room:
                job = next(jobs)
                running[job.number] = job
                started += 1
                batch.append(job)
                if pool.room is not None:  # it need not wait until the next one is composed
                    pool.start([job])
            if batch and pool.room is None:
                pool.start(batch)
            for number, end in pool.ended(LOOK_S):
                yield running.pop(number), end
    except BaseException:
        pool.stop(list(running.values()))
        raise


def note_lost(job: WorkerJob, overrides: Sequence[str], how: str) -> None:
    """Writes the outcome of a run that was stopped from outside, or whose process is gone, unless it has left one."""
    from trilab.sweeps.outcome import Outcome, read_outcome
    from trilab.sweeps.sweep import current

    sweep = current()
    if sweep is None or read_outcome(job.folder) is not None:
        return
    name = sweep.place.values(list(overrides)) or f"run {job.number}"
    Outcome(job.number, name, sweep.hash(overrides), list(overrides), "FAILED", shown=how).write(job.folder)


def end_lost(config: DictConfig) -> None:
    """Ends the runs of this machine whose process is gone as KILLED, with what they had recorded and not yet sent."""
    from trilab.tracking.recovery import recover
    from trilab.tracking.settings import store_uri
    from trilab.tracking.spool import spool_folder

    with contextlib.suppress(Exception), shielded():  # the next command that uses the store tries again
        recover(spool_folder(config.tracking.spool), store_uri(config.tracking.uri))


def _folder(config: DictConfig) -> Path:
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        parts = [str(OmegaConf.select(config, f"hydra.sweep.{name}")) for name in ("dir", "subdir")]
    finally:
        HydraConfig.instance().cfg = before
    return Path(*parts).absolute()


def _returned(overrides: Sequence[str], end: Ended) -> JobReturn:
    """What Hydra's sweepers read; those of trilab read the outcomes."""
    value: Any = end.value if end.error is None else RuntimeError(end.error)
    returned = JobReturn(
        overrides=list(overrides), status=JobStatus.COMPLETED if end.error is None else JobStatus.FAILED
    )
    returned.return_value = value
    return returned
