"""One run of a sweep in a process that a launcher has started, here or on another machine.

The run finds there what it would find in the launching process: its working folder and what can be imported from it,
its environment, and Hydra's own state. What it prints goes to `output.log` in its folder; its result goes to MLflow and
to `outcome.json`. The process may run any number of them, one after the other.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import version
from hydra.core.utils import JobRuntime, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from trilab.runtime import THREADS
from trilab.signals import Interrupted, interruptible
from trilab.tracking.process import is_gone, process_tags

OUTPUT = "output.log"
_PROCESS = "process.json"
#: Seconds between two looks at whether the launching process is still there, and for a run to end when it is not.
_LOOK_S, _END_S = 1.0, 60.0
#: Of the environment, what a machine that was not started from here has to be told.
_PREFIXES = ("TRILAB_", "MLFLOW_")


@dataclass(frozen=True)
class WorkerJob:
    """What a worker needs to run one job.

    Args:
        number: of the run in its sweep.
        config: of the run, Hydra's own part included.
        folder: of the run, absolute.
        task: what is called with the configuration.
        threads: of torch, where the configuration leaves it open; None for all cores of the machine.
        launcher: tags of the launching process, with which the worker ends; empty where it outlives it.
        workdir: where the sweep was launched.
        path: where modules are looked for.
        environment: to be set.
    """

    number: int
    config: DictConfig
    folder: Path
    task: Callable[[DictConfig], Any]
    threads: int | None = None
    launcher: Mapping[str, str] = field(default_factory=dict)
    workdir: str = field(default_factory=os.getcwd)
    path: list[str] = field(default_factory=lambda: list(sys.path))
    environment: dict[str, str] = field(
        default_factory=lambda: {key: value for key, value in os.environ.items() if key.startswith(_PREFIXES)}
    )


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Args:
        value: what it returned.
        error: what went wrong.
        vanished: its process was gone without a word.
    """

    value: Any = None
    error: str | None = None
    vanished: bool = False


def run_in_worker(job: WorkerJob) -> Ended:
    """Runs a job in this process, which is a launcher's alone."""
    prepare_process(job)
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / _PROCESS).write_text(json.dumps(process_tags()))
    try:
        with _output_to(job.folder / OUTPUT), interruptible():
            done = run_job(
                task_function=job.task,
                config=job.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                hydra_context=_context(job.config),
            )
    except Interrupted as stopped:
        if _watched and is_gone(_watched):
            os._exit(stopped.exit_code)  # nobody waits for an answer
        return Ended(error=f"stopped by {stopped}")
    finally:
        (job.folder / _PROCESS).unlink(missing_ok=True)
    if done.status is JobStatus.COMPLETED:
        return Ended(value=done.return_value)
    return Ended(error=str(done._return_value))


def prepare_process(job: WorkerJob) -> None:
    """Makes this process as the launching one is; again for each job, for they may be of several sweeps."""
    if job.launcher:
        _leave_terminal()
        _end_with(dict(job.launcher))
    os.chdir(job.workdir)
    sys.path += [folder for folder in job.path if folder not in sys.path]
    os.environ.update(job.environment)
    os.environ.pop(THREADS, None)
    if job.threads is not None:
        os.environ[THREADS] = str(job.threads)
    version.setbase("1.3")
    setup_globals()
    JobRuntime.instance().set("name", job.config.hydra.job.name)
    if "SUBMITIT_EXECUTOR" in os.environ:
        # What Slurm sends before a run's time is over. submitit would have the job queued again, or fail; trilab ends
        # the run as KILLED, and the sweep, launched again, makes it anew.
        for signum in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(signum, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _context(config: DictConfig) -> HydraContext:
    from hydra._internal.callbacks import Callbacks

    # The configuration is composed already: what runs a job asks for the callbacks alone.
    return HydraContext(None, Callbacks(config))  # type: ignore[arg-type]


_left_terminal = False
_watched: dict[str, str] = {}


def _leave_terminal() -> None:
    """A terminal's Ctrl-C is the launching process's to handle: it asks each run to stop, once."""
    global _left_terminal
    if not _left_terminal and hasattr(os, "setsid"):
        with contextlib.suppress(PermissionError):  # it leads a group already
            os.setsid()
        _left_terminal = True


def _end_with(launcher: dict[str, str]) -> None:
    """Ends this process soon after the one that launched it: nobody would know of its runs."""
    if not _watched:
        threading.Thread(target=_watch, name="trilab-launcher", daemon=True).start()
    _watched.update(launcher)


def _watch() -> None:
    while not is_gone(_watched):
        time.sleep(_LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_S)
    os._exit(1)


def has_begun(job: WorkerJob) -> bool:
    """Whether a job is running now; a process that is still loading its packages has nothing to save."""
    return (job.folder / _PROCESS).is_file()


def stop(job: WorkerJob) -> None:
    """Asks the process that runs a job to stop, if it is on this machine."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        tags = json.loads((job.folder / _PROCESS).read_text())
        here = process_tags()
        if not is_gone(tags) and all(tags[name] == here[name] for name in ("process.host", "process.space")):
            os.kill(int(tags["process.pid"]), signal.SIGTERM)


@contextlib.contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Sends all that this process and its children print to a file."""
    _flush()
    kept = os.dup(1), os.dup(2)
    try:
        with file.open("ab") as target:
            for stream in (1, 2):
                os.dup2(target.fileno(), stream)
        yield
    finally:
        _flush()
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)
            os.close(before)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
