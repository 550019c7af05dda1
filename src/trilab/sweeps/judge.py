"""The values that a run of a sweep is compared by.

While a run trains it is validated many times, and its checkpoint is the best of them. So the value of a metric of the
validation is the best that the run reached; that of any other metric is the last.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trilab.config.objective import Objectives, objectives_of
from trilab.errors import ConfigError
from trilab.sweeps.outcome import Outcome
from trilab.tracking.spool import is_local

History = Callable[[str], Sequence[float]]


def judge(outcome: Outcome, config: Mapping[str, Any], uri: str) -> None:
    """Fills in the scores of a run that has finished.

    Args:
        outcome: of the run.
        config: of the run.
        uri: of its store. Where that does not answer, the last values count.
    """
    try:
        objectives = objectives_of(config)
    except ConfigError:  # of another run of the sweep it was refused before the first; here it cannot be known
        return
    outcome.objectives = dict(objectives.modes)
    outcome.scores = scores(objectives, outcome.metrics, history_of(uri, outcome.run_id))


def scores(objectives: Objectives, last: Mapping[str, float], history: History) -> dict[str, float]:
    """The value of each objective that was logged; NaN where it was never a number."""
    found: dict[str, float] = {}
    for metric, mode in objectives.modes.items():
        if metric not in last:
            continue
        values = [last[metric], *(history(metric) if metric.startswith("val/") else ())]
        numbers = [value for value in values if not math.isnan(value)]
        found[metric] = (max if mode == "max" else min)(numbers, default=math.nan)
    return found


def history_of(uri: str, run_id: str | None) -> History:
    """Every value of a metric of a run, as its store holds them."""

    def values(metric: str) -> list[float]:
        if run_id is None or is_local(run_id):  # the store was away
            return []
        from mlflow import MlflowClient

        try:
            return [point.value for point in MlflowClient(uri).get_metric_history(run_id, metric)]
        except Exception:  # the last value is known; what the store would add is not worth a run
            return []

    return values
