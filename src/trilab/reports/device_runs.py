"""What MLflow holds of a study of devices, as rows of its table: one for each cell of this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from mlflow.entities import Run

from trilab.errors import UserError
from trilab.reports.device_plan import Cell, DeviceStudy
from trilab.reports.device_windows import METRIC, WINDOWS_TAG, finished, groups, identity
from trilab.reports.launch import identify
from trilab.reports.runs import all_runs
from trilab.timing import Quartiles, paired_ratio, quartiles
from trilab.tracking.store import MlflowClient

#: Of table.csv. A row of a cell that cannot run has its reason in `unsupported`, and no figures.
COLUMNS = (
    *("machine", "date", "data", "model", "accelerator", "device", "precision", "unsupported"),
    *("seeds", "epochs", "batch_size", "average_epoch_s", "first_epoch_s", "later_epoch_s"),
    *("windows", "window_s", "window_low_s", "window_high_s", "speedup", "speedup_low", "speedup_high"),
    *("images_per_s", "peak_memory_mb", "accuracy", "accuracy_min", "accuracy_max"),
    *("python", "torch", "threads", "matmul_precision", "memory_format", "allocator", "commit"),
)
#: Of a run of windows: what its processes said of themselves, under `timing.<name>`.
_SETTINGS = ("python", "torch", "threads", "matmul_precision", "memory_format", "allocator")


@dataclass(frozen=True)
class Measured:
    """A finished training.

    Args:
        run_id: its own.
        tags: of the run.
        started: when, in seconds since 1970.
        epochs_s: seconds of training of every epoch, in order.
        metrics: the latest of each.
        params: of its configuration.
    """

    run_id: str
    tags: Mapping[str, str]
    started: float
    epochs_s: np.ndarray
    metrics: Mapping[str, float]
    params: Mapping[str, str]


def collect(client: MlflowClient, study: DeviceStudy) -> dict[Cell, list[Measured]]:
    """The finished runs of every cell that can run, a run for each seed that has one.

    Raises:
        UserError: there are none at all.
    """
    here = study.here()
    experiment = client.get_experiment_by_name(here.name)
    runs = all_runs(client, experiment.experiment_id) if experiment is not None else []
    done = [run for run in runs if run.info.status == "FINISHED" and "test/accuracy" in run.data.metrics]
    by_hash: dict[str, Run] = {}
    for run in sorted(done, key=lambda run: run.info.start_time):  # of two, the later
        if "trilab.source_run" not in run.data.tags:
            by_hash[run.data.tags.get("trilab.config_hash", "")] = run
    found: dict[Cell, list[Measured]] = {}
    for cell in study.cells:
        if cell.unsupported is None:
            hashes = [identify(here.overrides(cell.run, seed)) for seed in study.seeds]
            own = [next((by_hash[one] for one in each if one in by_hash), None) for each in hashes]
            found[cell] = [_measured(client, run) for run in own if run is not None]
    if not any(found.values()):
        raise UserError(f"The store holds no finished run with a test in the MLflow experiment '{here.name}'.")
    return found


def windows(client: MlflowClient, study: DeviceStudy) -> dict[tuple[str, str], tuple[Run, dict[str, list[float]]]]:
    """By data set and accelerator: the latest timing of the study as it is, and seconds by precision, turn by turn."""
    experiment = client.get_experiment_by_name(study.here().name)
    runs = finished(client, experiment.experiment_id) if experiment is not None else []
    latest = {run.data.tags[WINDOWS_TAG]: run for run in runs}
    found = {}
    for cells in groups(study):
        run = latest.get(identity(study, cells))
        if run is not None:
            seconds = {cell.precision: _history(client, run.info.run_id, METRIC + cell.precision) for cell in cells}
            found[cells[0].data, cells[0].accelerator] = run, seconds
    return found


def rows(
    client: MlflowClient, study: DeviceStudy, measured: Mapping[Cell, Sequence[Measured]], machine: str
) -> list[dict[str, str]]:
    """A row for each cell, in the order of the study.

    Args:
        client: of the store.
        study: as its study.yaml asks it.
        measured: what `collect` found.
        machine: the name of this one.
    """
    timed = windows(client, study)
    day = datetime.fromtimestamp(max(one.started for found in measured.values() for one in found), UTC).date()
    table = []
    for cell in study.cells:
        row = dict.fromkeys(COLUMNS, "") | {
            "machine": machine,
            "date": day.isoformat(),
            "data": cell.data.rpartition("/")[2],
            "model": cell.model.rpartition("/")[2],
            "accelerator": cell.accelerator,
            "precision": cell.precision,
        }
        if cell.unsupported is not None:
            row["unsupported"] = cell.unsupported.reason
        else:
            row |= _of_runs(cell, measured[cell])
            if (cell.data, cell.accelerator) in timed:
                run, seconds = timed[cell.data, cell.accelerator]
                row |= _of_windows(run, seconds, cell.precision, study.baseline)
        table.append(row)
    return table


def _of_runs(cell: Cell, found: Sequence[Measured]) -> dict[str, str]:
    strange = next((one for one in found if one.tags.get("precision.effective") != cell.precision), None)
    if strange is not None:  # never shown as what was asked for
        return {"unsupported": f"{cell.precision} ran as {strange.tags.get('precision.effective')}"}
    if not found:
        return {}
    epochs = np.concatenate([one.epochs_s for one in found])
    later = np.concatenate([one.epochs_s[1:] for one in found])
    accuracies = np.array([one.metrics["test/accuracy"] for one in found])
    latest = max(found, key=lambda one: one.started)
    return {
        "device": latest.tags.get("device.name", ""),
        "seeds": str(len(found)),
        "epochs": "/".join(sorted({str(len(one.epochs_s)) for one in found})),
        "batch_size": latest.params.get("data.batch_size", ""),
        "average_epoch_s": f"{epochs.mean():.4g}",
        "first_epoch_s": f"{np.median([one.epochs_s[0] for one in found]):.4g}",
        "later_epoch_s": f"{later.mean():.4g}" if len(later) else "",
        "images_per_s": _median(found, "perf/train_samples_per_s"),
        "peak_memory_mb": _median(found, "perf/peak_memory_mb"),
        "accuracy": f"{accuracies.mean():.4f}",
        "accuracy_min": f"{accuracies.min():.4f}",
        "accuracy_max": f"{accuracies.max():.4f}",
        "commit": latest.tags.get("git.commit", ""),
    }


def _of_windows(run: Run, seconds: Mapping[str, Sequence[float]], precision: str, baseline: str) -> dict[str, str]:
    middle: Quartiles = quartiles(seconds[precision])
    row = {"windows": str(len(seconds[precision]))}
    row |= dict(zip(("window_s", "window_low_s", "window_high_s"), _texts(middle), strict=True))
    if precision != baseline and baseline in seconds:
        faster = paired_ratio(seconds[precision], seconds[baseline])
        row |= dict(zip(("speedup", "speedup_low", "speedup_high"), _texts(faster), strict=True))
    return row | {name: run.data.tags.get(f"timing.{name}", "") for name in _SETTINGS}


def _texts(found: Quartiles) -> list[str]:
    return [f"{value:.4g}" for value in found]


def _median(found: Sequence[Measured], metric: str) -> str:
    values = [one.metrics[metric] for one in found if metric in one.metrics]
    return f"{np.median(values):.0f}" if values else ""


def _measured(client: MlflowClient, run: Run) -> Measured:
    return Measured(
        run_id=run.info.run_id,
        tags=run.data.tags,
        started=run.info.start_time / 1000,
        epochs_s=np.array(_history(client, run.info.run_id, "perf/epoch_s")),
        metrics=run.data.metrics,
        params=run.data.params,
    )


def _history(client: MlflowClient, run_id: str, metric: str) -> list[float]:
    """Every value of a metric, in the order of its steps."""
    return [entry.value for entry in sorted(client.get_metric_history(run_id, metric), key=lambda entry: entry.step)]
