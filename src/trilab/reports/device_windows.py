"""Epochs of all precisions of one data set and accelerator, timed in turns by `trilab.timing`."""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

from trilab.errors import UserError, say
from trilab.reports.device_plan import Cell, DeviceStudy
from trilab.reports.launch import identify
from trilab.reports.runs import all_runs
from trilab.timing import interleave
from trilab.tracking.settings import Tracking
from trilab.tracking.store import MlflowClient, connect

ARM = (sys.executable, "-m", "trilab.reports.device_arm")
#: Tag of the MLflow runs that hold windows: what was timed, and how.
WINDOWS_TAG = "study_windows"
#: Metric of such a run: seconds of a precision's windows, the turn as step.
METRIC = "perf/window_s/"
#: Longest wait for a process that was asked to end, in seconds; bytes of its output that an error shows.
_STOP_S, _TAIL = 10.0, 2000


class ArmProcess:
    """An arm that runs as `trilab.reports.device_arm` in a process of its own, and sleeps between its windows.

    Args:
        name: of the arm.
        command: that starts it.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def __enter__(self) -> "ArmProcess":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def answer(self) -> dict[str, Any]:
        """What it says next.

        Raises:
            UserError: it has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return dict(json.loads(line))
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read()[-_TAIL:].decode(errors="replace").strip().splitlines()
        raise UserError(f"{self.name}: its process ended before its time: {said[-1] if said else 'no message'}")

    def epoch(self) -> dict[str, Any]:
        """Runs one epoch."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the missing answer tells
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self.answer()

    def window(self) -> float:
        return float(self.epoch()["seconds"])


def measure(study: DeviceStudy, uri: str, command: Sequence[str] = ARM) -> None:
    """Times what the store does not hold of it yet.

    Args:
        study: as its study.yaml asks it.
        uri: the store.
        command: what is called with the overrides of an arm.

    Raises:
        UserError: an arm failed.
    """
    client, experiment_id = connect(Tracking(study.here().name, uri))
    for cells in groups(study):
        key = identity(study, cells)
        if any(run.data.tags.get(WINDOWS_TAG) == key for run in finished(client, experiment_id)):
            continue
        first = cells[0]
        say(f"{first.data} on {first.accelerator}: {study.windows} epochs of each precision, in turns")
        settings, seconds = _in_turns(study, cells, command)
        _log(client, experiment_id, cells, {**settings, WINDOWS_TAG: key}, seconds)


def groups(study: DeviceStudy) -> list[list[Cell]]:
    """The cells that can run, by data set and accelerator."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in study.cells:
        if cell.unsupported is None:
            found.setdefault((cell.data, cell.accelerator), []).append(cell)
    return list(found.values())


def identity(study: DeviceStudy, cells: Sequence[Cell]) -> str:
    """What tells one timing from another: the configuration of every arm, and how many windows."""
    hashes = [sorted(identify(study.here().overrides(cell.run, study.seeds[0]))) for cell in cells]
    return hashlib.sha256(json.dumps([hashes, study.windows]).encode()).hexdigest()[:12]


def finished(client: MlflowClient, experiment_id: str) -> list[Any]:
    """The MLflow runs that hold windows, the oldest first."""
    runs = [run for run in all_runs(client, experiment_id) if WINDOWS_TAG in run.data.tags]
    return sorted((run for run in runs if run.info.status == "FINISHED"), key=lambda run: run.info.start_time)


def _in_turns(
    study: DeviceStudy, cells: Sequence[Cell], command: Sequence[str]
) -> tuple[dict[str, str], dict[str, list[float]]]:
    """What the timings depend on, and each precision's seconds; element i of all is of the same turn."""
    with ExitStack() as stack:
        arms, ready, warm = [], [], []
        for cell in cells:
            overrides = study.overrides(cell.run, study.seeds[0])
            arm = ArmProcess(cell.precision, [*command, *overrides, f"trainer.max_epochs={study.windows + 1}"])
            arms.append(stack.enter_context(arm))
            # One after the other: a process that still loads would slow the first epoch of another.
            ready.append(arm.answer())
            warm.append(arm.epoch())
        for what, answers in (("weights", ready), ("batches", warm)):
            if len({answer[what] for answer in answers}) > 1:
                raise UserError(f"{cells[0].title}: the precisions do not start from the same {what}.")
        for cell, answer in zip(cells, ready, strict=True):
            if answer["settings"]["precision"] != cell.precision:
                raise UserError(f"{cell.title}: ran as {answer['settings']['precision']}.")
        return dict(ready[0]["settings"]), interleave(arms, study.windows)


def _log(
    client: MlflowClient,
    experiment_id: str,
    cells: Sequence[Cell],
    settings: dict[str, str],
    seconds: dict[str, list[float]],
) -> None:
    from mlflow.entities import Metric, RunTag

    first = cells[0]
    tags = {"trilab.data": first.data, "trilab.model": first.model, "accelerator.effective": first.accelerator}
    tags |= {name if name == WINDOWS_TAG else f"timing.{name}": value for name, value in settings.items()}
    run_id = client.create_run(experiment_id, run_name=f"epochs in turns {first.title}").info.run_id
    metrics = [
        Metric(METRIC + name, value, 0, turn) for name, values in seconds.items() for turn, value in enumerate(values)
    ]
    client.log_batch(run_id, metrics, [], [RunTag(name, value) for name, value in tags.items()])
    client.set_terminated(run_id, "FINISHED")
