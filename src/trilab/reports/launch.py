"""The runs of a study: those that the store does not hold are made, one after the other or several at once."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from omegaconf import open_dict

from trilab.config.compose import compose_unchecked
from trilab.config.job import Job
from trilab.config.preflight import preflight
from trilab.errors import UserError, say
from trilab.reports.runs import all_runs
from trilab.reports.study import Study, StudyRun
from trilab.tracking.process import require_ended
from trilab.tracking.settings import Tracking
from trilab.tracking.store import MlflowClient, connect

TRAIN = (sys.executable, "-m", "trilab", "train")
#: Side by side, each process gets one thread: small models are no faster on more, and two would hinder each other.
_ONE_THREAD = "accelerator.threads=1"
#: Seconds between two looks at the processes, and the longest wait for one that was asked to stop.
_LOOK_S, _STOP_S = 0.2, 60.0
#: Bytes of a failed process's output that are shown.
_TAIL = 2000

Key = tuple[str | None, int | None]  # a run's name and seed


@dataclass
class _Task:
    """One process to be."""

    run: StudyRun
    seed: int | None
    title: str

    def needs(self) -> list[Key]:
        return [(name, self.seed) for name in self.run.needs]


def run_study(study: Study, uri: str, jobs: int = 1, command: Sequence[str] = TRAIN) -> None:
    """Makes the study's runs, one process each; those that the store holds as finished are left out.

    Every run's configuration is checked before the first one starts. A failure keeps from running only what needs that
    run; whoever stops this process stops them all.

    Args:
        study: asks for the runs.
        uri: the store.
        jobs: processes at once.
        command: what is called with the overrides of a run.

    Raises:
        ConfigError: one of the runs is wrongly configured; or the study is running already.
        UserError: runs failed; the others are finished, and the next call makes the failed ones again.
    """
    seeds: list[int | None] = [*study.seeds] or [None]
    for run in study.runs:
        preflight(study.overrides(run, seeds[0]), None, False)
    tasks = [_Task(run, seed, "") for seed in seeds for run in study.runs]
    for position, task in enumerate(tasks, 1):
        own = [*task.run.overrides, *([f"seed={task.seed}"] if task.seed is not None else [])]
        task.title = f"run {position} of {len(tasks)}: {' '.join(own)}"
    client, experiment_id = connect(Tracking(study.name, uri))
    require_ended(study.name, all_runs(client, experiment_id))
    failures = _Schedule(study, client, experiment_id, uri, jobs, command).work(tasks)
    if failures:
        raise UserError(f"{len(failures)} of {len(tasks)} runs failed: {'; '.join(failures)}")


class _Schedule:
    """What is waiting, running and finished.

    Args:
        study: asks for the runs.
        client: of the store.
        experiment_id: of the study.
        uri: the store.
        jobs: processes at once.
        command: what is called with the overrides of a run.
    """

    def __init__(
        self, study: Study, client: MlflowClient, experiment_id: str, uri: str, jobs: int, command: Sequence[str]
    ) -> None:
        self._study, self._client, self._experiment_id = study, client, experiment_id
        self._uri, self._jobs, self._command = uri, jobs, command
        self._running: list[tuple[_Task, subprocess.Popen[bytes], IO[bytes] | None]] = []
        self._run_ids: dict[Key, str] = {}  # of finished runs with a name
        self._failed: set[Key] = set()
        self._failures: list[str] = []

    def work(self, tasks: Sequence[_Task]) -> list[str]:
        """Runs them all, and returns what failed."""
        waiting = list(tasks)
        try:
            while waiting or self._running:
                for task in list(waiting):
                    if len(self._running) < self._jobs and self._begin(task):
                        waiting.remove(task)
                self._look()
        except BaseException:
            self._stop()
            raise
        return self._failures

    def _begin(self, task: _Task) -> bool:
        """Starts it, if it is not finished or lost already; False where what it needs is still to come."""
        lost = [name for name, seed in task.needs() if (name, seed) in self._failed]
        if lost:
            self._fail(task, f"not started, for it needs '{lost[0]}'")
            return True
        if not all(key in self._run_ids for key in task.needs()):
            return False
        found = self._finished(task)
        if found:
            say(f"{task.title}: finished already, as run {found}")
            self._run_ids[task.run.name, task.seed] = found
            return True
        say(task.title)
        overrides = self._overrides(task)
        if self._jobs > 1 and not _sets_threads(overrides):
            overrides.append(_ONE_THREAD)
        # Side by side their progress bars would write over each other; then only what a failed one said is shown.
        output = tempfile.TemporaryFile() if self._jobs > 1 else None  # noqa: SIM115 - open until the process ends
        process = subprocess.Popen(
            [*self._command, *overrides],
            env={**os.environ, "MLFLOW_TRACKING_URI": self._uri},
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
        )
        self._running.append((task, process, output))
        return True

    def _look(self) -> None:
        """Waits until one of the processes has ended, if any is running."""
        while self._running:
            ended = [entry for entry in self._running if entry[1].poll() is not None]
            for entry in ended:
                self._running.remove(entry)
                self._end(*entry)
            if ended:
                return
            time.sleep(_LOOK_S)

    def _end(self, task: _Task, process: subprocess.Popen[bytes], output: IO[bytes] | None) -> None:
        found = self._finished(task) if not process.returncode else None
        if found:
            self._run_ids[task.run.name, task.seed] = found
            if output:
                say(f"{task.title}: finished, as run {found}")
        elif process.returncode:
            self._fail(task, f"ended with exit code {process.returncode}", output)
        else:
            self._fail(task, "ended well, but the store holds no finished run of it", output)
        if output:
            output.close()

    def _fail(self, task: _Task, how: str, output: IO[bytes] | None = None) -> None:
        if output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL))
            sys.stderr.write(output.read().decode(errors="replace"))
        self._failed.add((task.run.name, task.seed))
        self._failures.append(f"{task.title}: {how}")
        say(self._failures[-1])

    def _overrides(self, task: _Task) -> list[str]:
        ids = {name: self._run_ids[name, task.seed] for name in task.run.needs}
        return self._study.overrides(task.run, task.seed, ids)

    def _finished(self, task: _Task) -> str | None:
        """The first finished run of the same configuration, threads of this module's choice or none."""
        identities = identify(self._overrides(task))
        runs = all_runs(self._client, self._experiment_id)
        for run in sorted(runs, key=lambda run: run.info.start_time):
            if run.info.status == "FINISHED" and run.data.tags.get("trilab.config_hash") in identities:
                return str(run.info.run_id)
        return None

    def _stop(self) -> None:
        """Asks what is running to save and end, and waits for it.

        By SIGTERM: the terminal has sent them Ctrl-C already, and a second one means to save nothing.
        """
        for _, process, _ in self._running:
            process.terminate()
        for _, process, output in self._running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            process.kill()
            if output:
                output.close()


def identify(overrides: list[str]) -> set[str]:
    """The configuration's hash, and the one that it has with a single thread where it leaves their number open."""
    config, choices = compose_unchecked(overrides)
    identities = {Job.of(config, choices, []).hash}
    if not _sets_threads(overrides):
        with open_dict(config):
            config.accelerator.threads = 1
        identities.add(Job.of(config, choices, []).hash)
    return identities


def _sets_threads(overrides: Sequence[str]) -> bool:
    return any(text.startswith("accelerator.threads=") for text in overrides)
