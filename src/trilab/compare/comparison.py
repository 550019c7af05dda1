"""A whole comparison: of each task its groups, with their figures and verdicts, and what a reader has to know."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trilab.compare import columns
from trilab.compare.find import Selection, in_words
from trilab.compare.groups import Baseline, Group, baseline, baseline_of, grouped
from trilab.compare.metric import finite, mode, named, of_goal
from trilab.compare.notes import notes_on
from trilab.compare.samples import Sample
from trilab.compare.verdict import FEWEST, FOOTNOTE, Against, against, sentence, speed
from trilab.errors import ConfigError
from trilab.statistics import Interval, bootstrap, interquartile_mean

FIT = "perf/fit_s"
MEMORY = "perf/peak_memory_mb"


@dataclass(frozen=True)
class Options:
    """What a user may ask of a comparison.

    Args:
        metric: compared; None for the goal's, on the test.
        by: columns that tell groups apart; None for what was swept, or differs.
        baseline: what the others are held against; None: see `trilab.compare.groups.baseline`.
        margin: share of the baseline's mean below which a loss is none.
    """

    metric: str | None = None
    by: Sequence[str] | None = None
    baseline: str | None = None
    margin: float = 0.01


@dataclass(frozen=True)
class Row:
    """A group with its figures.

    Args:
        group: whose.
        scores: finite values of the metric, by seed: (seeds,)
        mean: with the 95% interval of a bootstrap over seeds.
        middle: likewise of the interquartile mean; None but for agents.
        rate: the name of its throughput (`train_samples_per_s`), the most important one; None where there is none.
        found: against the baseline; None of the baseline itself, and where there is none.
    """

    group: Group
    scores: np.ndarray
    mean: Interval
    middle: Interval | None
    rate: str | None
    found: Against | None = None

    def median(self, metric: str) -> float | None:
        """Over its processes."""
        values = list(self.group.of(metric).values())
        return float(np.median(values)) if values else None

    def tags(self, name: str) -> str:
        """The values of a tag among its runs."""
        return ", ".join(sorted({sample.tags[name] for sample in self.group.samples if name in sample.tags}))

    @property
    def centre(self) -> Interval:
        """What the group is judged by."""
        return self.middle or self.mean


@dataclass(frozen=True)
class Task:
    """Groups that were trained for the same: the same data, the same goal.

    Args:
        data: option of the data.
        metric: compared.
        mode: which way of it is better, max or min; empty where nobody knows.
        agents: they learnt from rewards.
        rows: a row for each group.
    """

    data: str
    metric: str
    mode: str
    agents: bool
    rows: Sequence[Row]

    def verdicts(self) -> list[str]:
        """A line for each group but the baseline; one for all where none has enough seeds."""
        judged = [row for row in self.rows if row.found]
        if len(judged) > 1 and all(min(row.found.runs) < FEWEST for row in judged if row.found):
            return [self._too_few()]
        return [sentence(row.group.name, row.found, self.metric) for row in judged if row.found]

    def _too_few(self) -> str:
        counts = {len(row.scores) for row in self.rows}
        each = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        told = f"too few seeds to tell: {each} in each group, {FEWEST} are the fewest."
        if not self.mode:
            return told
        best = (max if self.mode == "max" else min)(self.rows, key=lambda row: float(row.centre.value))
        word = "highest" if self.mode == "max" else "lowest"
        return f"{told} The {word} {self.metric} so far: {best.group.name}, {best.centre.value:.5g}"


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Args:
        title: as the user named it.
        by: the columns.
        baseline: what the groups are held against.
        tasks: one, or one for each data set.
        notes: what a reader has to know, a line each.
        left_out: runs that are not in it, in words.
        margin: as of `Options`.
        samples: all that count.
    """

    title: str
    by: Sequence[str]
    baseline: Baseline
    tasks: Sequence[Task]
    notes: Sequence[str]
    left_out: str
    margin: float
    samples: Sequence[Sample] = field(repr=False)

    @property
    def footnote(self) -> str:
        return FOOTNOTE.format(margin=100 * self.margin)

    def verdicts(self) -> list[str]:
        several = len(self.tasks) > 1
        return [
            f"{columns.short(task.data)}: {text}" if several else text
            for task in self.tasks
            for text in task.verdicts()
        ]


def compare(selection: Selection, options: Options) -> Comparison:
    """Compares what was selected.

    Raises:
        ConfigError: the runs are of different tasks; no such metric, column or baseline.
    """
    by = _columns(selection, options.by)
    parts = _tasks(selection, by, options.by is not None)
    left_out = selection.left_out.copy()
    asked = named(options.metric, selection.samples) if options.metric is not None else None
    tasks: list[dict[str, Any]] = []
    for samples in parts:
        metric = asked or of_goal(samples)
        logged = [sample for sample in samples if sample.metric(metric) is not None]
        left_out[f"without {metric}"] += len(samples) - len(logged)
        if logged:
            groups, repeated = grouped(logged, by, selection.swept, len(parts) > 1)
            left_out["repeated later"] += repeated
            tasks.append({"samples": logged, "metric": metric, "groups": groups})
    everything = [group for task in tasks for group in task["groups"]]
    chosen = baseline(options.baseline, everything, by, len(tasks) > 1)
    finished = [_task(**task, by=by, chosen=chosen, margin=options.margin) for task in tasks]
    samples = [sample for group in everything for sample in group.samples]
    notes = [note for task in tasks for note in _notes(task["groups"], task["metric"], by, chosen)]
    return Comparison(
        title=selection.title,
        by=by,
        baseline=chosen,
        tasks=finished,
        notes=list(dict.fromkeys([*notes_on(samples), *notes])),
        left_out=in_words(left_out),
        margin=options.margin,
        samples=samples,
    )


def _columns(selection: Selection, asked: Sequence[str] | None) -> list[str]:
    if asked is not None:
        return list(dict.fromkeys(columns.resolve(name, selection.samples) for name in asked))
    known = [key for key in selection.swept if any(columns.value(sample, key) for sample in selection.samples)]
    if len({(sample.data, sample.goal) for sample in selection.samples}) > 1 and "experiment" in known:
        known = ["data", *(key for key in known if key not in columns.OF_THE_TASK)]
    return columns.refined(known, selection.samples)


def _tasks(selection: Selection, by: Sequence[str], explicit: bool) -> list[list[Sample]]:
    """The samples of each task.

    Raises:
        ConfigError: there are several, and neither the user nor the sweep asked for that.
    """
    found: dict[tuple[str, tuple[str, str]], list[Sample]] = {}
    for sample in selection.samples:
        found.setdefault((sample.data, sample.goal), []).append(sample)
    meant = set(by) if explicit else set(selection.swept)
    if len(found) > 1 and not meant & set(columns.OF_THE_TASK):
        each = ", ".join(f"{data} ({goal[0]}, {len(samples)} runs)" for (data, goal), samples in found.items())
        rest = [column for column in by if column not in columns.OF_THE_TASK]
        raise ConfigError(
            f"compare: runs of different tasks cannot be compared: {each}. Name runs of one of them, or have a table "
            f"for each: --by {','.join(['data', *rest])}."
        )
    return list(found.values())


def _task(
    samples: Sequence[Sample], metric: str, groups: Sequence[Group], by: Sequence[str], chosen: Baseline, margin: float
) -> Task:
    way, agents = mode(metric, samples[0]), all(sample.by_agent for sample in samples)
    rows = []
    for group in groups:
        scores = np.array(list(group.of(metric).values()))
        if not len(scores):  # all of them NaN or infinite
            nothing = np.asarray(np.nan)
            rows.append(Row(group, scores, Interval(nothing, nothing, nothing), None, _rate(group)))
            continue
        mean = bootstrap([scores], _mean)
        middle = bootstrap([scores], interquartile_mean) if agents else None
        base = baseline_of(group, groups, by, chosen)
        found = None
        if base is not None and base is not group and base.of(metric):
            time = None if metric.startswith("perf/") else speed(_positive(group), _positive(base))
            found = against(base.name, group.of(metric), base.of(metric), way, margin, agents, time)
        rows.append(Row(group, scores, mean, middle, _rate(group), found))
    return Task(samples[0].data, metric, way, agents, rows)


def _positive(group: Group) -> dict[Any, float]:
    return {key: seconds for key, seconds in group.of(FIT).items() if seconds > 0}


def _rate(group: Group) -> str | None:
    """Samples or environment steps a second come before optimiser steps, which say nothing of the batch."""
    names = {name for sample in group.samples for name in sample.measured if name.endswith("_per_s")}
    own = sorted((name for name in names if name.startswith("perf/")), key=lambda name: ("gradient" in name, name))
    return own[0] if own else None


def _notes(groups: Sequence[Group], metric: str, by: Sequence[str], chosen: Baseline) -> list[str]:
    notes = []
    for group in groups:
        if wrong := sum(not finite(sample.metric(metric)) for sample in group.samples):
            notes.append(
                f"{group.name}: {wrong} of {len(group.samples)} runs have no finite {metric}; the figures and the "
                "verdict are of the others, and look better than the group is."
            )
        if len(groups) > 1 and chosen and baseline_of(group, groups, by, chosen) is None:
            notes.append(
                f"{group.name}: there is no such group with {columns.label(list(chosen), list(chosen.values()))}."
            )
    samples = [sample for group in groups for sample in group.samples]
    if groups[0].others:
        notes.append(f"Within each group the runs differ in {', '.join(groups[0].others)} too; pairs have the same.")
    if further := columns.along_with([*by, *groups[0].others], samples):
        told = ", ".join(further[:6]) + (f" and {len(further) - 6} more" if len(further) > 6 else "")
        notes.append(f"The groups differ in more than their names say: {told}.")
    return notes


def _mean(scores: np.ndarray) -> np.ndarray:
    return np.asarray(scores.mean(-1))
