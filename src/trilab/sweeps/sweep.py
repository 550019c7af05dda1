"""A sweep: the MLflow run that its runs are nested under, what of it is finished already, and its result.

Launched again under its name a sweep goes on: runs that are FINISHED with the same configuration are left out, the
others are made under the same parent, in folders of their own.
"""

import contextlib
import copy
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun

from trilab.config.compose import compose_unchecked
from trilab.config.job import Job
from trilab.errors import ConfigError, UserError
from trilab.signals import shielded
from trilab.sweeps.outcome import Outcome, best, read_outcomes
from trilab.sweeps.place import Place
from trilab.tracking.failures import Unreachable
from trilab.tracking.lookup import children, search
from trilab.tracking.process import is_gone, named
from trilab.tracking.reopen import reopen_run
from trilab.tracking.run import Run, open_run
from trilab.tracking.settings import Tracking
from trilab.tracking.spool import is_local
from trilab.tracking.store import connect

_current: ContextVar["Sweep | None"] = ContextVar("sweep", default=None)


class Sweep:
    """A sweep that is going on.

    Args:
        name: of the sweep.
        run: its own MLflow run.
        folder: with a folder for each of its runs.
        config_dir: the user's own options.
        swept: the values of each key that is swept.
        finished: MLflow run of each configuration that is finished, by its hash.
    """

    def __init__(
        self,
        name: str,
        run: Run,
        folder: Path,
        config_dir: str | None,
        swept: Mapping[str, Sequence[str]],
        finished: dict[str, str],
    ) -> None:
        self.name, self.run, self.folder, self.swept = name, run, folder, swept
        self._config_dir, self._finished = config_dir, finished
        self.launched: list[int] = []
        self.skipped: list[str] = []

    @property
    def place(self) -> Place:
        return Place(self.name, self.run.id, tuple(self.swept))

    def left(self, batch: Sequence[Sequence[str]]) -> list[list[str]]:
        """Those of a batch of overrides whose configuration is not finished yet."""
        if not self._finished:
            return [list(overrides) for overrides in batch]
        left = []
        for overrides in batch:
            identity = self.hash(overrides)
            if identity in self._finished:
                self.skipped.append(self._finished[identity])
            else:
                left.append(list(overrides))
        return left

    def hash(self, overrides: Sequence[str]) -> str:
        """Of the configuration of a run with these overrides."""
        return Job.of(*compose_unchecked(overrides, self._config_dir), []).hash

    def number(self) -> int:
        """Of the next run: after every folder that there is, so that none is written twice."""
        taken = [int(entry.name) for entry in self.folder.glob("*") if entry.name.isdigit()]
        return max([*taken, *self.launched], default=-1) + 1

    def outcomes(self) -> list[Outcome]:
        return read_outcomes(self.folder)

    def failures(self) -> list[str]:
        """What went wrong with the runs that were launched now, with a line each; a run that left no word too."""
        ended = {outcome.number: outcome for outcome in self.outcomes()}
        lines = []
        for number in self.launched:
            if number not in ended:
                lines.append(f"run {number} ended without a word (see {self.folder / str(number)})")
            elif ended[number].status != "FINISHED":
                lines.append(f"{ended[number].name}: {ended[number].shown}")
        return lines

    def record(self) -> None:
        """Brings the sweep's own run up to date: counts, the best run, the table."""
        outcomes = self.outcomes()
        finished = [outcome for outcome in outcomes if outcome.status == "FINISHED"]
        winner = best(finished)
        self.run.outbox.metrics(
            {"sweep/finished": float(len(finished)), "sweep/failed": float(len(outcomes) - len(finished))}, 0
        )
        if winner is not None and winner.result is not None:
            self.run.outbox.metrics({f"best/{winner.metric}": winner.result}, 0)
            self.run.set_tags({"trilab.best": winner.name, "trilab.best_run": winner.run_id or ""})
        self.run.set_tags({"mlflow.note.content": description(self.name, outcomes, winner)})
        self.run.outbox.text(_csv(outcomes), "sweep.csv")


def description(name: str, outcomes: Sequence[Outcome], winner: Outcome | None) -> str:
    """A sweep in Markdown, as its page shows it."""
    lines = []
    if winner is not None:
        link = f"run `{winner.run_id}`"
        lines += [f"**Best: {winner.name}**, {winner.metric} {winner.result:.5g} ({link})", ""]
    failed = sum(outcome.status != "FINISHED" for outcome in outcomes)
    lines += [f"{len(outcomes) - failed} runs finished, {failed} failed.", ""]
    lines += ["| run | result | speed |", "|---|---|---|"]
    lines += [f"| {_cell(outcome.name)} | {_cell(outcome.shown)} | {_cell(outcome.speed)} |" for outcome in outcomes]
    lines += ["", f"Go on with it, or add to it: launch it again with `sweep.name={name}`."]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _csv(outcomes: Sequence[Outcome]) -> str:
    text = io.StringIO()
    names = sorted({name for outcome in outcomes for name in outcome.metrics})
    writer = csv.writer(text)
    writer.writerow(["run", "status", "run_id", "seconds", *names])
    for outcome in outcomes:
        values = [outcome.metrics.get(name, "") for name in names]
        writer.writerow([outcome.name, outcome.status, outcome.run_id, f"{outcome.seconds:.3f}", *values])
    return text.getvalue()


def current() -> Sweep | None:
    """The sweep that is going on in this process."""
    return _current.get()


@contextlib.contextmanager
def open_sweep(
    settings: Tracking,
    name: str,
    title: str,
    tags: Mapping[str, str],
    folder: Path,
    config_dir: str | None,
    swept: Mapping[str, Sequence[str]],
) -> Iterator[Sweep]:
    """Opens a sweep, or goes on with the one of that name, and ends its run with what really happened.

    Args:
        settings: of the tracking.
        name: of the sweep.
        title: of its run, where it is new.
        tags: of its run.
        folder: with a folder for each of its runs.
        config_dir: the user's own options.
        swept: the values of each key that is swept.

    Raises:
        ConfigError: the sweep of that name is running.
        UserError: runs failed.
    """
    settings = copy.copy(settings)
    settings.system_metrics = False  # its runs log them
    client, earlier = _earlier(settings, name)
    finished: dict[str, str] = {}
    if client is None:
        finished = {o.hash: o.run_id or "" for o in read_outcomes(folder) if o.status == "FINISHED"}
    elif earlier is not None:
        for child in children(client, earlier.info.run_id):
            if child.info.status == "FINISHED" and "trilab.config_hash" in child.data.tags:
                finished[child.data.tags["trilab.config_hash"]] = child.info.run_id
    if earlier is not None:  # in what its runs differ altogether
        before: dict[str, list[str]] = {
            key.removeprefix("swept."): [] for key in earlier.data.tags if key.startswith("swept.")
        }
        swept = {**before, **swept}
    own = {"trilab.kind": "sweep", "trilab.sweep": name, **tags}
    own |= {f"swept.{key}": ", ".join(values) for key, values in swept.items() if values}
    opened = reopen_run(settings, [earlier.info.run_id]) if earlier else open_run(settings, title, own)
    with opened as run:
        if earlier:
            run.set_tags(own)
        sweep, id_at_first = Sweep(name, run, folder, config_dir, swept, finished), run.id
        token = _current.set(sweep)
        try:
            yield sweep
        finally:
            _current.reset(token)
            with shielded():
                sweep.record()
                if is_local(id_at_first) and not is_local(run.id):
                    _adopt(run, id_at_first)
        if failures := sweep.failures():
            raise UserError(f"{len(failures)} of {len(sweep.launched)} runs failed: {'; '.join(failures)}")


def _earlier(settings: Tracking, name: str) -> tuple[MlflowClient | None, StoredRun | None]:
    """The store, and the run of the sweep of that name in it; no store where it does not answer."""
    try:
        client, experiment_id = connect(settings)
    except Unreachable:
        return None, None  # whoever opens the run says so
    condition = f"tags.`trilab.sweep` = '{name}' and tags.`trilab.kind` = 'sweep'"
    found = next(iter(search(client, [experiment_id], condition)), None)
    if found is not None and found.info.status == "RUNNING" and not is_gone(dict(found.data.tags)):
        raise ConfigError(
            f"sweep.name={name}: that sweep is running, as {named(dict(found.data.tags))}. Wait for it, stop it, or "
            "choose another name."
        )
    return client, found


def _adopt(run: Run, known_as: str) -> None:
    """Nests the runs that the store took before it could tell them their parent's id."""
    with contextlib.suppress(Exception):  # the store went away again; they are found by their tag trilab.sweep
        for child in children(run.client, known_as):
            run.client.set_tag(child.info.run_id, "mlflow.parentRunId", run.id)
