"""The runs of a study of recommenders, as MLflow holds them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from mlflow.entities import Run

from trilab.errors import UserError, nearest
from trilab.reports.runs import all_runs
from trilab.reports.study import LABEL_TAG, Study
from trilab.tracking.store import MlflowClient

#: What tells the rows of a table apart: the values of the study's `by`, as MLflow holds them.
Row = tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """One finished run.

    Args:
        run_id: its own.
        row: the row of the table that it belongs to; a parameter that it does not have is empty.
        seed: its seed.
        metrics: of the test, by name without `test/`.
        samples_per_s: of training; None where it was not measured.
        fit_s: seconds of the whole fit, likewise.
        tags: of the run.
        started: when, in seconds since 1970.
        data: option of the data set.
    """

    run_id: str
    row: Row
    seed: int
    metrics: Mapping[str, float]
    samples_per_s: float | None
    fit_s: float | None
    tags: Mapping[str, str] = field(repr=False)
    started: float = 0.0
    data: str = ""


Groups = Mapping[Row, Sequence[Result]]


def collect(client: MlflowClient, study: Study) -> list[Result]:
    """All finished runs of a study with a test; of two of one data set, row and seed, the later.

    Raises:
        UserError: there are none, or they have not logged what the study is to show.
    """
    experiment = client.get_experiment_by_name(study.name)
    runs = all_runs(client, experiment.experiment_id) if experiment is not None else []
    latest: dict[tuple[str, Row, int], Result] = {}
    for run in sorted(runs, key=lambda run: run.info.start_time):
        tested = any(name.startswith("test/") for name in run.data.metrics)
        if run.info.status == "FINISHED" and tested and "trilab.source_run" not in run.data.tags:
            result = _result(run, study.by)
            latest[result.data, result.row, result.seed] = result
    if not latest:
        raise UserError(f"The store holds no finished run with a test in the MLflow experiment '{study.name}'.")
    for metric in study.metrics:
        known = sorted({name for result in latest.values() for name in result.metrics})
        if metric not in known:
            raise UserError(
                f"metrics: no run of '{study.name}' has test/{metric}.{nearest(metric, known)} "
                f"There is: {', '.join(known)}."
            )
    return list(latest.values())


def by_data(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Of each data set, in the order in which they were first trained on."""
    found: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: result.started):
        found.setdefault(result.data, []).append(result)
    return found


def grouped(results: Iterable[Result], models: Sequence[str]) -> Groups:
    """By row: models in the order given, then others as they were first run; within a model by number; then by seed."""
    found = sorted(results, key=lambda result: result.started)
    order = list(dict.fromkeys([*models, *(result.row[0] for result in found)]))
    # A model may stand in the study by the name of its experiment alone.
    first = {result.row[0]: _experiment_of(result) for result in reversed(found)}

    def place(result: Result) -> tuple[int, list[tuple[float, str]], int]:
        model = result.row[0]
        name = model if model in models or first[model] not in models else first[model]
        return order.index(name), [_by_number(value) for value in result.row[1:]], result.seed

    groups: dict[Row, list[Result]] = {}
    for result in sorted(found, key=place):
        groups.setdefault(result.row, []).append(result)
    return groups


def values(results: Sequence[Result], metric: str) -> np.ndarray:
    """(seeds,), NaN where a run has not logged it."""
    return np.array([result.metrics.get(metric, np.nan) for result in results])


def number(text: str) -> float | None:
    """A parameter's value as a number; None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def _by_number(text: str) -> tuple[float, str]:
    value = number(text)
    return (value if value is not None else np.inf), text


def _experiment_of(result: Result) -> str:
    return result.tags.get("trilab.experiment", "").rpartition("/")[2]


def _result(run: Run, by: Sequence[str]) -> Result:
    metrics, tags = run.data.metrics, run.data.tags
    return Result(
        run_id=run.info.run_id,
        row=tuple(_value(run, key) for key in by),
        seed=int(run.data.params["seed"]),
        metrics={name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")},
        samples_per_s=metrics.get("perf/train_samples_per_s"),
        fit_s=metrics.get("perf/fit_s"),
        tags=tags,
        started=run.info.start_time / 1000,
        data=tags.get("trilab.data", ""),
    )


def _value(run: Run, key: str) -> str:
    """The model's label or file name, or the parameter of that name or of that last part.

    Raises:
        UserError: several parameters have that last part.
    """
    tags, params = run.data.tags, run.data.params
    if key == "model":
        return str(tags.get(LABEL_TAG) or tags["trilab.model"].rpartition("/")[2])
    names = [key] if key in params else sorted(name for name in params if name.endswith(f".{key}"))
    if len(names) > 1:
        raise UserError(f"by: '{key}' may be any of {', '.join(names)} of run {run.info.run_id}. Write it in full.")
    return str(params[names[0]]) if names else ""
