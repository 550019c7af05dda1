"""Several tasks in one figure: what holds of a method whatever it is trained on.

Scores are put on one scale task by task, 0 for the worst run of the comparison and 1 for the best; their interquartile
mean gets an interval by a bootstrap that is stratified by task, and beside it stands the probability that a run beats
one of the baseline, for which the scales do not matter (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264, sections
4.2 and 4.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trilab.compare.comparison import Comparison, Row, Task
from trilab.statistics import Interval, bootstrap, probability_of_improvement


@dataclass(frozen=True)
class Across:
    """A method on all tasks.

    Args:
        name: of its groups.
        runs: of all tasks.
        scaled: interquartile mean of the scores, 0 to 1, with its interval.
        baseline: name of what it is held against; empty for the baseline itself.
        better: probability that a run of it beats one of the baseline; None likewise.
    """

    name: str
    runs: int
    scaled: Interval
    baseline: str = ""
    better: Interval | None = None


def across(comparison: Comparison) -> list[Across]:
    """The methods that have runs on every one of several tasks; none where there is one task, or one method."""
    tasks = [{row.group.name: row for row in task.rows if len(row.scores)} for task in comparison.tasks]
    names = [name for name in tasks[0] if all(name in own for own in tasks)]
    if len(tasks) < 2 or len(names) < 2 or not all(task.mode for task in comparison.tasks):
        return []
    scales = [_scale(task) for task in comparison.tasks]
    found = []
    for name in names:
        rows = [own[name] for own in tasks]
        scores = _scaled(rows, scales)
        baseline = next((row.found.baseline for row in rows if row.found), "")
        better = None
        if baseline in names:
            better = probability_of_improvement(scores, _scaled([own[baseline] for own in tasks], scales))
        found.append(Across(name, sum(map(len, scores)), bootstrap(scores), baseline, better))
    return found


def _scale(task: Task) -> tuple[float, float]:
    """Of a task: what is 0 and what is 1."""
    scores = np.concatenate([row.scores for row in task.rows])
    ends = float(scores.min()), float(scores.max())
    return ends if task.mode == "max" else ends[::-1]


def _scaled(rows: Sequence[Row], scales: Sequence[tuple[float, float]]) -> list[np.ndarray]:
    return [
        (row.scores - zero) / (one - zero) if one != zero else np.full(len(row.scores), 0.5)
        for row, (zero, one) in zip(rows, scales, strict=True)
    ]
