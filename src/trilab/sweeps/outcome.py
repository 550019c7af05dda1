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
        metrics: the last values of all that was logged.
        shown: the result, or what went wrong, in words.
        speed: likewise.
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
    metrics: dict[str, float] = field(default_factory=dict)
    shown: str = ""
    speed: str = ""
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


def read_outcomes(folder: Path) -> list[Outcome]:
    """Those of a sweep's folder in the order of their runs; of runs that compute the same, the last alone."""
    latest: dict[str, Outcome] = {}
    for file in folder.glob(f"**/{_FILE}"):
        try:
            outcome = Outcome(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        known = latest.get(outcome.hash)
        if known is None or known.ended < outcome.ended:
            latest[outcome.hash] = outcome
    return sorted(latest.values(), key=lambda outcome: outcome.number)


def best(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The one with the best result; None where none has any, or they are judged by different metrics."""
    judged = [outcome for outcome in outcomes if outcome.result is not None and outcome.result == outcome.result]
    if not judged or len({(outcome.metric, outcome.mode) for outcome in judged}) > 1:
        return None
    sign = 1 if judged[0].mode == "max" else -1
    return max(judged, key=lambda outcome: sign * (outcome.result or 0.0))
