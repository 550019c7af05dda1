"""The runs of a study of precisions, as MLflow holds them: what was asked for, and what really ran."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from mlflow.entities import Run

from trilab.errors import UserError
from trilab.reports.precision_plan import PrecisionStudy
from trilab.reports.runs import all_runs
from trilab.reports.study import LABEL_TAG
from trilab.timing import Unsupported
from trilab.tracking.store import MlflowClient


@dataclass(frozen=True)
class Result:
    """One finished run.

    Args:
        run_id: its own.
        label: its field.
        asked: precision that it asked for.
        ran: precision that it ran in.
        seed: its seed.
        metric: the goal's.
        mode: which way of it is better, min or max.
        value: of it on the test.
        metrics: all that it logged, the last value of each.
        tags: of the run.
        started: when, in seconds since 1970.
    """

    run_id: str
    label: str
    asked: str
    ran: str
    seed: int
    metric: str
    mode: str
    value: float
    metrics: Mapping[str, float] = field(repr=False)
    tags: Mapping[str, str] = field(repr=False)
    started: float = 0.0


#: The runs of each label and precision, by seed; or why there is nothing to show.
Cells = Mapping[tuple[str, str], Sequence[Result] | Unsupported]


def collect(client: MlflowClient, study: PrecisionStudy) -> list[Result]:
    """All finished runs of a study with a test; of two of one label, precision and seed, the later.

    Raises:
        UserError: there are none.
    """
    experiment = client.get_experiment_by_name(study.name)
    runs = all_runs(client, experiment.experiment_id) if experiment is not None else []
    latest: dict[tuple[str, str, int], Result] = {}
    for run in sorted(runs, key=lambda run: run.info.start_time):
        tested = f"test/{run.data.params.get('goal.metric')}" in run.data.metrics
        if run.info.status == "FINISHED" and tested and "trilab.source_run" not in run.data.tags:
            result = _result(run)
            latest[result.label, result.asked, result.seed] = result
    if not latest:
        raise UserError(f"The store holds no finished run with a test in the MLflow experiment '{study.name}'.")
    return list(latest.values())


def celled(results: Sequence[Result], study: PrecisionStudy) -> Cells:
    """The cells of the study. One whose runs did not run as they were asked to is unsupported."""
    cells: dict[tuple[str, str], Sequence[Result] | Unsupported] = {}
    for label, precision in study.cells:
        found = sorted((one for one in results if (one.label, one.asked) == (label, precision)), key=lambda r: r.seed)
        other = sorted({one.ran for one in found} - {precision})
        if not found:
            cells[label, precision] = Unsupported("no finished run")
        else:
            cells[label, precision] = Unsupported(f"runs as {other[0]} here") if other else found
    return cells


def values(results: Sequence[Result]) -> np.ndarray:
    """(seeds,)"""
    return np.array([result.value for result in results])


def pairs(first: Sequence[Result], second: Sequence[Result]) -> tuple[np.ndarray, np.ndarray]:
    """Values of both with the seeds that both have: (seeds,) each."""
    seeds = sorted({one.seed for one in first} & {one.seed for one in second})
    by_seed = [{one.seed: one.value for one in results} for results in (first, second)]
    own, other = (np.array([values[seed] for seed in seeds]) for values in by_seed)
    return own, other


def _result(run: Run) -> Result:
    params, tags, metrics = run.data.params, run.data.tags, run.data.metrics
    return Result(
        run_id=run.info.run_id,
        label=str(tags.get(LABEL_TAG) or tags["trilab.model"].rpartition("/")[2]),
        asked=tags["precision.requested"],
        ran=tags["precision.effective"],
        seed=int(params["seed"]),
        metric=params["goal.metric"],
        mode=params["goal.mode"],
        value=metrics[f"test/{params['goal.metric']}"],
        metrics=metrics,
        tags=tags,
        started=run.info.start_time / 1000,
    )
