"""What became of one run of a sweep, as a file in its output folder.

Runs of a sweep may be in other processes and on other machines; what all of them share with the process that launched
them is the sweep's folder, and it needs no tracking store.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from trilab.summary import BatchSummary, Summary

_FILE = "outcome.json"


@dataclass
class Outcome:
    """A run of a sweep that has ended.

    Args:
        number: of the run in its sweep, from 0.
        name: its swept values.
        hash: of its configuration.
        overrides: that it was launched with.
        status: as in MLflow.
        run_id: of its MLflow run; None where none was opened.
        metric: the goal's, as it is logged; None where nothing was evaluated.
        mode: which way of it is better.
        result: its value.
        objectives: the metrics that runs are chosen by, each with `min` or `max`.
        scores: their values.
        metrics: the last values of all that was logged.
        shown: the result, or what went wrong, in words.
        speed: likewise.
        pruned: it was stopped early, for others were better at that point.
        wrong: it failed for a configuration that cannot be.
        ended: when, in seconds since 1970.
        seconds: it took.
    """

    number: int
    name: str
    hash: str
    overrides: list[str]
    status: Literal["FINISHED", "FAILED"]
    run_id: str | None = None
    metric: str | None = None
    mode: str = "min"
    result: float | None = None
    objectives: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    shown: str = ""
    speed: str = ""
    pruned: bool = False
    wrong: bool = False
    ended: float = field(default_factory=time.time)
    seconds: float = 0.0

    def finished(self, summary: Summary | BatchSummary, shown: str, speed: str) -> "Outcome":
        """Fills in what came of it."""
        whole = summary.whole if isinstance(summary, BatchSummary) else summary
        self.run_id, self.metrics, self.mode = whole.run_id, dict(whole.metrics), whole.goal["mode"]
        self.result = summary.result
        self.metric = None if self.result is None else f"{whole.split}/{whole.goal['metric']}"
        self.shown, self.speed = shown, speed
        return self

    def write(self, folder: Path) -> None:
        """Writes it whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{_FILE}.part"
        part.write_text(json.dumps(asdict(self)))
        part.replace(folder / _FILE)

    @property
    def words(self) -> str:
        """What runs are chosen by, and the result beside it where that is another metric."""
        said = [f"{metric} {value:.5g}" for metric, value in self.scores.items()]
        if self.metric is not None and self.result is not None and self.metric not in self.scores:
            said.append(f"{self.metric} {self.result:.5g}")
        return ", ".join(said)


def read_outcome(folder: Path) -> Outcome | None:
    """That of one run, by its output folder; None where it left none yet."""
    try:
        return Outcome(**json.loads((folder / _FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def read_all(folder: Path) -> list[Outcome]:
    """Every one that a sweep's folder holds."""
    return [outcome for file in folder.glob(f"*/{_FILE}") if (outcome := read_outcome(file.parent)) is not None]


def latest(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Of runs that compute the same the one that ended last, in the order of their runs."""
    kept: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda outcome: -outcome.ended):
        kept += not_again([outcome], kept)
    return sorted(kept, key=lambda outcome: outcome.number)


def not_again(before: Iterable[Outcome], later: Iterable[Outcome]) -> list[Outcome]:
    """Those that none of later ones takes the place of: by computing the same, or by having the values of a failed one.

    What made a run fail may be part of what is computed: where its data are, say.
    """
    hashes, names = ({getattr(outcome, key) for outcome in later} for key in ("hash", "name"))
    return [own for own in before if own.hash not in hashes and not (own.status == "FAILED" and own.name in names)]


def winners(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The best by their objectives: one of a single objective, of several those that no other is better than in all.

    None where runs are chosen by different metrics, for those are of different tasks. Pruned runs, and those that
    diverged, are no candidates.
    """
    candidates = [
        outcome
        for outcome in outcomes
        if outcome.status == "FINISHED"
        and not outcome.pruned
        and outcome.objectives
        and all(outcome.scores.get(metric, float("nan")) == outcome.scores.get(metric) for metric in outcome.objectives)
    ]
    if len({tuple(outcome.objectives.items()) for outcome in candidates}) != 1:
        return []
    points = [[_cost(outcome, metric) for metric in outcome.objectives] for outcome in candidates]
    if len(points[0]) == 1:
        return [candidates[points.index(min(points))]]
    return [
        outcome
        for outcome, own in zip(candidates, points, strict=True)
        if not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in points)
    ]


def _cost(outcome: Outcome, metric: str) -> float:
    """A score, the less the better."""
    return outcome.scores[metric] * (-1 if outcome.objectives[metric] == "max" else 1)


def best(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The one that is best; None where there is none, or several are, each in its own way."""
    found = winners(outcomes)
    return found[0] if len(found) == 1 else None
