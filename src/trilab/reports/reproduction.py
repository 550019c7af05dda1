"""Whether a second run came to the same metrics as the first: point by point, and against the spread over seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Run
from rich.console import RenderableType
from rich.table import Table

from trilab.tracking.lookup import StoredRun, histories

Verdict = Literal["equal", "within the spread", "differs"]

#: What a run computes; its speed, memory and machine are no result.
_COMPUTED = ("train/", "val/", "test/")
#: Seeds at least, of which a standard deviation says something.
_SEEDS = 3
_ROWS = 12


@dataclass(frozen=True)
class Metric:
    """A metric of both runs.

    Args:
        name: with that of the run's seed in front, where several were trained at once.
        points: how many the two histories have together, a step once.
        different: at how many steps they differ, those included that one alone has.
        largest: the largest absolute difference; None where no step is in both.
        first: the last value in the first run; None where it has none.
        second: the same of the second.
    """

    name: str
    points: int
    different: int
    largest: float | None
    first: float | None
    second: float | None


@dataclass(frozen=True)
class Spread:
    """The results of the same configuration with several seeds, the first run's among them."""

    seeds: int
    mean: float
    std: float

    def holds(self, value: float) -> bool:
        """Whether a value lies within two standard deviations of the mean."""
        return self.seeds >= _SEEDS and abs(value - self.mean) <= 2 * self.std


@dataclass(frozen=True)
class Comparison:
    """All metrics of two runs.

    Args:
        goal: name of the metric that the run is judged by.
        metrics: every one of both runs.
        spread: of the goal over seeds; None where the store has no other.
    """

    goal: str
    metrics: list[Metric]
    spread: Spread | None

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        if self.metrics and not any(metric.different for metric in self.metrics):
            return "equal"
        second = next((metric.second for metric in self.metrics if metric.name == self.goal), None)
        held = self.spread is not None and second is not None and self.spread.holds(second)
        return "within the spread" if held else "differs"

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "verdict": self.verdict}

    def lines(self) -> list[RenderableType]:
        """For a person: the verdict, and where they differ, by how much."""
        points = sum(metric.points for metric in self.metrics)
        apart = [metric for metric in self.metrics if metric.different]
        if not apart:
            return [f"equal to the last bit: {len(self.metrics)} metrics, {points:,} points"]
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for column in ("metric", "steps that differ", "largest difference", "the run", "now"):
            table.add_column(column, overflow="fold")
        order = sorted(apart, key=lambda metric: (metric.name != self.goal, not metric.name.startswith("test/")))
        for metric in order[:_ROWS]:
            numbers = (_number(value) for value in (metric.largest, metric.first, metric.second))
            table.add_row(metric.name, f"{metric.different} of {metric.points}", *numbers)
        rest = [f"and {len(apart) - _ROWS} metrics more"] if len(apart) > _ROWS else []
        return [table, *rest, f"{len(apart)} of {len(self.metrics)} metrics differ. {self._against_seeds()}"]

    def _against_seeds(self) -> str:
        if self.spread is None or self.spread.seeds < _SEEDS:
            count = self.spread.seeds if self.spread else 1
            return f"The store has {count} seed{'s' * (count > 1)} of this configuration, too few to say by how much."
        inside = "within" if self.verdict == "within the spread" else "outside"
        spread = f"{self.spread.mean:.5g} ± {self.spread.std:.2g} (standard deviation) over {self.spread.seeds} seeds"
        return f"{self.goal} is {inside} two standard deviations of the mean: {spread}."


def compare(client: MlflowClient, runs: Sequence[tuple[str, str]], goal: str, spread: Spread | None) -> Comparison:
    """Compares runs, of which each pair should be equal.

    Args:
        client: of the store that both are in.
        runs: ids of the first and the second; then those of the agents of each, where several were trained at once.
        goal: name of the metric that the runs are judged by.
        spread: of that metric.
    """
    metrics = []
    for number, (first, second) in enumerate(runs):
        before, after = _computed(client, first), _computed(client, second)
        prefix = f"agent {number}: " if number else ""
        for name in sorted({*before, *after}):
            metrics.append(metric_of(prefix + name, before.get(name, {}), after.get(name, {})))
    return Comparison(goal, metrics, spread)


def metric_of(name: str, first: dict[int, float], second: dict[int, float]) -> Metric:
    """Compares two histories, values by step; NaN equals NaN."""
    steps = {*first, *second}
    both = sorted({*first} & {*second})
    unequal = [step for step in both if not _same(first[step], second[step])]
    gaps = [abs(first[step] - second[step]) for step in unequal]
    last_first, last_second = (history[max(history)] if history else None for history in (first, second))
    largest = max(gaps, key=lambda gap: (math.isnan(gap), gap), default=0.0) if both else None
    return Metric(name, len(steps), len(unequal) + len(steps) - len(both), largest, last_first, last_second)


def spread_of(stored: StoredRun, goal: str) -> Spread | None:
    """The goal over the finished runs that differ from a run in nothing but the seed, one of each seed; itself too."""
    tags = {name: stored.tags.get(name, "") for name in ("trilab.model", "trilab.data", "precision.effective")}
    conditions = ["attributes.status = 'FINISHED'", *(f"tags.`{name}` = '{value}'" for name, value in tags.items())]
    found = stored.client.search_runs([stored.run.info.experiment_id], " and ".join(conditions), max_results=1000)
    ours = _without_seed(stored.run)
    results = {
        run.data.params["seed"]: run.data.metrics[goal]
        for run in found
        if goal in run.data.metrics and "trilab.reproduces" not in run.data.tags and _without_seed(run) == ours
    }
    if goal in stored.run.data.metrics:
        results[stored.run.data.params["seed"]] = stored.run.data.metrics[goal]
    values = list(results.values())
    if len(values) < 2:
        return None
    return Spread(len(values), statistics.fmean(values), statistics.stdev(values))


def _computed(client: MlflowClient, run_id: str) -> dict[str, dict[int, float]]:
    found = histories(client, run_id)
    return {
        name: {point.step: point.value for point in points}
        for name, points in found.items()
        if name.startswith(_COMPUTED)
    }


def _without_seed(run: Run) -> dict[str, str]:
    """What a run was configured with, but for its seeds and for where it is kept."""
    kept: dict[str, str] = run.data.params
    return {
        key: value
        for key, value in kept.items()
        if key.rpartition(".")[2] != "seed" and not key.startswith(("tracking.", "paths.", "accelerator."))
    }


def _same(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
