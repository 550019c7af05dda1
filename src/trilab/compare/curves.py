"""Learning curves of groups: a metric's whole history in each run, read off at common points."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric

from trilab.compare.comparison import Row, Task
from trilab.compare.samples import Sample
from trilab.compare.verdict import BOOTSTRAP_FROM
from trilab.statistics import bootstrap, interquartile_mean

Axis = Literal["steps", "seconds"]
#: Points of the common grid.
_POINTS = 120
#: Groups in one plot, and histories read for all plots: more could not be told apart, and would take long.
MOST_GROUPS, MOST_HISTORIES = 8, 400
#: Requests at once to a server; a file has one writer and needs none.
_AT_ONCE = 8


@dataclass(frozen=True)
class History:
    """A metric of one run.

    Args:
        steps: as its x axis counts them: (points,)
        seconds: since its fit began; of one that went on later, since the run was opened: (points,)
        values: (points,)
    """

    steps: np.ndarray
    seconds: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Curve:
    """A group's curve.

    Args:
        name: of the group.
        runs: in it.
        x: (points,)
        middle: mean over the runs, of agents the interquartile mean: (points,)
        low: of the band: from ten runs on the 95% interval of a bootstrap, else the lowest run: (points,)
        high: likewise: (points,)
    """

    name: str
    runs: int
    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


def metric_of(task: Task) -> str | None:
    """The metric whose history is drawn: that of the task on validation; None where it was logged once at most."""
    last = task.metric.rpartition("/")[2]
    there = {name for row in task.rows for sample in row.group.samples for name in sample.metrics}
    return next((name for name in (f"val/{last}", task.metric) if name in there and not name.startswith("test/")), None)


def drawn(task: Task) -> list[Row]:
    """The groups that are drawn: all, or of many the best, in their usual order."""
    rows = [row for row in task.rows if len(row.scores)]
    best = sorted(rows, key=lambda row: float(row.centre.value), reverse=task.mode != "min")[:MOST_GROUPS]
    kept, histories = [], 0
    for row in best:
        histories += len(row.group.samples)
        if histories <= MOST_HISTORIES:
            kept.append(row)
    return [row for row in rows if any(row is one for one in kept)]


def histories(client: MlflowClient, samples: Sequence[Sample], metric: str) -> list[History | None]:
    """That of each sample; None of one with fewer than two points. One request each."""

    def read(sample: Sample) -> History | None:
        if metric not in sample.metrics:
            return None
        # Of two points at one step the later one counts: a run that went on from a checkpoint.
        found = {point.step: point for point in sorted(_points(client, sample, metric), key=lambda p: p.timestamp)}
        points = [found[step] for step in sorted(found) if np.isfinite(found[step].value)]
        if len(points) < 2:
            return None
        began = sample.fit_began
        if began is None or began > points[0].timestamp / 1000:
            began = sample.started
        return History(
            np.array([point.step for point in points], float),
            np.array([point.timestamp / 1000 - began for point in points]),
            np.array([point.value for point in points]),
        )

    if client.tracking_uri.startswith("http"):
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(read, samples))
    return [read(sample) for sample in samples]


def curve(name: str, found: Sequence[History | None], axis: Axis, agents: bool) -> Curve | None:
    """A group's curve over what all its runs have covered; None where a run has no history, or they share none."""
    if not found:
        return None
    parts = [(history.steps if axis == "steps" else history.seconds, history.values) for history in found if history]
    if len(parts) < len(found):
        return None
    start, end = max(x[0] for x, _ in parts), min(x[-1] for x, _ in parts)
    if end <= start:
        return None
    own = parts[0][0]
    alike = all(len(x) == len(own) and np.array_equal(x, own) for x, _ in parts)
    grid = own if alike and len(own) <= _POINTS else np.linspace(start, end, _POINTS)
    values = np.stack([np.interp(grid, x, y) for x, y in parts])  # (runs, points)
    if len(parts) >= BOOTSTRAP_FROM:
        band = bootstrap([values], interquartile_mean if agents else _mean, resamples=500)
        return Curve(name, len(parts), grid, band.value, band.low, band.high)
    middle = interquartile_mean(values.T) if agents else values.mean(0)
    return Curve(name, len(parts), grid, middle, values.min(0), values.max(0))


def _points(client: MlflowClient, sample: Sample, metric: str) -> list[Metric]:
    return list(client.get_metric_history(sample.run_id, metric))


def _mean(scores: np.ndarray) -> np.ndarray:
    return np.asarray(scores.mean(-1))
