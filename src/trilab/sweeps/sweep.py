"""A sweep: the MLflow run that its runs are nested under, what of it is finished already, and its result.

Launched again under its name a sweep goes on: runs that are FINISHED with the same configuration are left out, the
others are made under the same parent, in folders of their own.
"""

import contextlib
import copy
import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path

from trilab.config.compose import compose_unchecked
from trilab.config.job import Job
from trilab.config.objective import Objectives
from trilab.config.preflight import Checked
from trilab.config.space import Space
from trilab.errors import UserError
from trilab.signals import shielded
from trilab.sweeps.earlier import Earlier, adopt, find_earlier
from trilab.sweeps.outcome import Outcome, best, not_again, read_outcome, winners
from trilab.sweeps.place import Place, key_of
from trilab.sweeps.table import show_sweep
from trilab.sweeps.watch import watching
from trilab.tracking.describe import LONGEST, NOTE
from trilab.tracking.reopen import reopen_run
from trilab.tracking.run import Run, open_run
from trilab.tracking.settings import Tracking
from trilab.tracking.spool import is_local

#: Longest text of a table's cell, and what stands for the rows that have no room.
_CELL, _LEFT_OUT = 200, "{} more are in the runs below, and in `sweep.csv`."
#: Before what is in a table's second column and in those that follow: MLflow's pages leave no room between columns.
_GAP = "&emsp;"
_current: ContextVar["Sweep | None"] = ContextVar("sweep", default=None)


class Sweep:
    """A sweep that is going on.

    Args:
        name: of the sweep.
        run: its own MLflow run.
        folder: with a folder for each of its runs.
        config_dir: the user's own options.
        swept: the values of each key that is swept.
        space: what its runs are chosen from.
        objectives: what its runs are compared by.
        earlier: what it was before.
        quiet: it tells of its runs, a line each, in place of what they print.
    """

    def __init__(
        self,
        name: str,
        run: Run,
        folder: Path,
        config_dir: str | None,
        swept: Mapping[str, Sequence[str]],
        space: Space,
        objectives: Objectives,
        earlier: Earlier,
        quiet: bool,
    ) -> None:
        self.name, self.run, self.folder, self.swept, self.space = name, run, folder, swept, space
        self.config_dir, self.objectives, self.earlier, self.quiet = config_dir, objectives, earlier, quiet
        #: The number of each run that was launched now, by its overrides.
        self.numbers: dict[tuple[str, ...], int] = {}
        #: How many runs were not launched, for they had finished before.
        self.skipped = 0
        #: How many runs there will be in all, those of earlier launches that are finished among them.
        self.total = 0
        self._done_before = {outcome.hash: outcome for outcome in earlier.finished}
        self._hashes: dict[tuple[str, ...], str] = {}
        self._ended: dict[int, Outcome] = {}
        self._step = 1 + max((step for _, step in run.outbox.known), default=-1)

    @property
    def place(self) -> Place:
        return Place(self.name, self.run.id, tuple(self.swept), self.quiet)

    def plan(self, total: int) -> None:
        """Sets how many runs there will be, for this process and for those that look on."""
        self.total = total
        self.run.set_tags({"trilab.sweep_runs": str(total)})

    def finished(self, overrides: Sequence[str]) -> Outcome | None:
        """What became of the run with these overrides, now or before; None where it has not finished."""
        number = self.numbers.get(tuple(overrides))
        found = None if number is None else self.outcome(number)
        if found is None and self._done_before:
            found = self._done_before.get(self.hash(overrides))
        return found if found is not None and found.status == "FINISHED" else None

    def hash(self, overrides: Sequence[str]) -> str:
        """Of the configuration of a run with these overrides."""
        key = tuple(overrides)
        if key not in self._hashes:
            config, choices = compose_unchecked(overrides, self.config_dir)
            seeds = config.trainer.get("seeds") or []
            if len(seeds) == 1:  # a batch of one is a run like any other
                config, choices = compose_unchecked(
                    [*overrides, "trainer.seeds=null", f"seed={seeds[0]}", "resume=null"], self.config_dir
                )
            self._hashes[key] = Job.of(config, choices, []).hash
        return self._hashes[key]

    def number(self) -> int:
        """Of the next run: after every folder that there is, so that none is written twice."""
        taken = [int(entry.name) for entry in self.folder.glob("*") if entry.name.isdigit()]
        before = [outcome.number for outcome in self.earlier.outcomes]
        return max([*taken, *before, *self.launched], default=-1) + 1

    @property
    def launched(self) -> list[int]:
        """The numbers of the runs that were launched now."""
        return list(self.numbers.values())

    def outcome(self, number: int) -> Outcome | None:
        """What became of a run that was launched now; None while nothing is known."""
        if number not in self._ended and (found := read_outcome(self.folder / str(number))) is not None:
            self._ended[number] = found
        return self._ended.get(number)

    def outcomes(self) -> list[Outcome]:
        """Of every run that has ended; not of those of earlier launches that were made again."""
        now = [outcome for number in self.launched if (outcome := self.outcome(number)) is not None]
        return [*not_again(self.earlier.outcomes, now), *sorted(now, key=lambda outcome: outcome.number)]

    def failures(self) -> list[str]:
        """What went wrong with the runs that were launched now, with a line each; a run that left no word too."""
        lines = []
        for number in self.launched:
            outcome = self.outcome(number)
            if outcome is None:
                lines.append(f"run {number} ended without a word (see {self.folder / str(number)})")
            elif outcome.status != "FINISHED":
                lines.append(f"{outcome.name}: {outcome.shown}")
        return lines

    def compare(self) -> None:
        """Holds the runs against each other, where several have finished, once its own run has ended."""
        if sum(outcome.status == "FINISHED" for outcome in self.outcomes()) > 1:
            from trilab.compare.sweep import compare_sweep

            compare_sweep(self.run.client, self.run.id, self.folder / "compare")

    def note(self) -> None:
        """Brings the counts and the best run so far up to date in the store."""
        outcomes = self.outcomes()
        done = sum(outcome.status == "FINISHED" for outcome in outcomes)
        values = {"sweep/finished": float(done), "sweep/failed": float(len(outcomes) - done)}
        found = winners(outcomes)
        if len(found) == 1:
            own = dict(found[0].scores)
            if found[0].metric is not None and found[0].result is not None:
                own[found[0].metric] = found[0].result
            values |= {f"best/{metric}": value for metric, value in own.items()}
        self.run.outbox.metrics(values, self._step)
        self._step += 1
        if found:
            names, ids = ([getattr(outcome, key) or "" for outcome in found] for key in ("name", "run_id"))
            self.run.set_tags({"trilab.best": "; ".join(names), "trilab.best_run": " ".join(ids)})

    def record(self) -> None:
        """Brings the sweep's own run up to date: counts, the best run, the table."""
        self.note()
        outcomes = self.outcomes()
        winner = best(outcomes)
        if NOTE not in self.run.settings.tags:
            self.run.set_tags({NOTE: description(self.name, outcomes, winner, self.run.experiment_id)})
        self.run.outbox.text(_csv(outcomes), "sweep.csv")


def description(
    name: str, outcomes: Sequence[Outcome], winner: Outcome | None, experiment_id: str | None = None
) -> str:
    """A sweep in Markdown, as its page and the table of runs show it.

    Args:
        name: of the sweep.
        outcomes: of its runs that have ended.
        winner: the best of them, if any is.
        experiment_id: that its runs are in, where that is known: they are then links.
    """

    def link(outcome: Outcome) -> str:
        label = _cell(outcome.name)
        if experiment_id is None or not outcome.run_id or is_local(outcome.run_id):
            return label
        return f"[{label}](#/experiments/{experiment_id}/runs/{outcome.run_id})"

    failed = sum(outcome.status != "FINISHED" for outcome in outcomes)
    counts = f"{len(outcomes) - failed} of {len(outcomes)} runs finished" + (f", {failed} failed" if failed else "")
    lines = [counts, ""]
    if winner is not None:
        lines = [f"**Best** {_cell(winner.name)}: {winner.words} · {counts}", ""]
    lines += ["| run | result | speed |", "|---|---|---|"]
    last = ["", f"All metrics of every run: `sweep.csv`. Go on with it, or add to it, under `sweep.name={name}`."]
    room = LONGEST - sum(len(line) + 1 for line in [*lines, *last, _LEFT_OUT])
    for number, outcome in enumerate(outcomes):
        shown = outcome.shown if outcome.status == "FINISHED" else f"failed: {outcome.shown}"
        row = f"| {link(outcome)} | {_GAP}{_cell(shown)[:_CELL]} | {_GAP}{_cell(outcome.speed)} |"
        room -= len(row) + 1
        if room < 0:
            last = ["", _LEFT_OUT.format(len(outcomes) - number), *last]
            break
        lines.append(row)
    return "\n".join([*lines, *last])


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
    checked: Checked,
    added: Sequence[str],
) -> Iterator[Sweep]:
    """Opens a sweep, or goes on with the one of that name, and ends its run with what really happened.

    Args:
        settings: of the tracking.
        name: of the sweep.
        title: of its run, where it is new.
        tags: of its run.
        folder: with a folder for each of its runs.
        config_dir: the user's own options.
        checked: what it is to run.
        added: overrides of every run of it.

    Raises:
        ConfigError: the sweep of that name is running.
        UserError: runs failed.
    """
    settings = copy.copy(settings)
    settings.system_metrics = False  # its runs log them
    earlier = find_earlier(settings, name, folder, checked.objectives)
    if "storage" in checked.sweeper:  # what it cannot go on with is refused before anything is changed
        from trilab.sweeps.study import study_for

        study_for(checked.sweeper["storage"], settings.uri, folder, name, checked.objectives, checked.space, earlier)
    before: dict[str, Sequence[str]] = {key: [] for key in earlier.swept}
    swept = {**before, **checked.swept}  # in what its runs differ altogether
    own = {"trilab.kind": "sweep", "trilab.sweep": name, "trilab.objectives": str(checked.objectives), **tags}
    own |= {f"swept.{key}": ", ".join(values) for key, values in swept.items() if values}
    own |= {"trilab.sweep_started": f"{time.time():.0f}"}
    opened = reopen_run(settings, [earlier.run.info.run_id]) if earlier.run else open_run(settings, title, own)
    with opened as run:
        if earlier.run:
            run.set_tags(own)
        id_at_first = run.id
        space = Space({**checked.space.parts, **{key_of(text): text for text in added}})
        sweep = Sweep(name, run, folder, config_dir, swept, space, checked.objectives, earlier, checked.runs > 1)
        token = _current.set(sweep)
        try:
            with watching(sweep):
                yield sweep
        finally:
            _current.reset(token)
            with shielded():
                sweep.record()
                if is_local(id_at_first) and not is_local(run.id):
                    adopt(run, id_at_first)
            show_sweep(sweep.outcomes(), sweep.skipped)
        if failures := sweep.failures():
            raise UserError(f"{len(failures)} of {len(sweep.launched)} runs failed: {'; '.join(failures)}")
