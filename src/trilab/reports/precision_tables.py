"""A study of precisions as tables: every field in every precision, against the baseline by the same seeds."""

import csv
import io
from collections.abc import Sequence

import numpy as np

from trilab.reports.page import Rows
from trilab.reports.precision_runs import Cells, Result, pairs, values
from trilab.statistics import Interval, bootstrap, difference
from trilab.timing import Unsupported

#: Columns of medians over the seeds, with the metric that they come from.
_MEDIANS = {
    "step, ms, median": ("perf/step_ms", "{:.2f}"),
    "activations, MiB": ("memory/activations_mb", "{:.2f}"),
    "skipped steps, median": ("precision/skipped_steps", "{:.0f}"),
    "last loss scale, median": ("precision/loss_scale", "{:g}"),
}
_LOGGED = [
    "perf/step_ms",
    "perf/peak_memory_mb",
    "memory/parameters_mb",
    "memory/gradients_mb",
    "memory/optimizer_state_mb",
    "memory/activations_mb",
    "memory/weight_copies_mb",
    "precision/skipped_steps",
    "precision/non_finite_gradients",
    "precision/loss_scale",
]


def results(cells: Cells, baseline: str) -> Rows:
    """A row for each field and precision: the test, its difference from the baseline's, and a verdict."""
    rows: Rows = []
    for (label, precision), found in cells.items():
        row = {"field": label, "precision": precision, "metric": "", "seeds": "", "test, mean [95% CI]": ""}
        row |= {f"less {baseline}'s, same seeds": "", "verdict": ""} | dict.fromkeys(_MEDIANS, "")
        if isinstance(found, Unsupported):
            row |= {"test, mean [95% CI]": str(found), "verdict": found.reason}
        else:
            row |= {"metric": found[0].metric, "seeds": str(len(found))}
            row["test, mean [95% CI]"] = _mean(values(found))
            row |= {name: _median(found, metric, form) for name, (metric, form) in _MEDIANS.items()}
            base = cells.get((label, baseline))
            if precision != baseline and base is not None and not isinstance(base, Unsupported):
                own, other = pairs(found, base)
                row[f"less {baseline}'s, same seeds"], row["verdict"] = against(own, other, found[0].mode)
        rows.append(row)
    return rows


def against(own: np.ndarray, other: np.ndarray, mode: str) -> tuple[str, str]:
    """The mean difference of pairs with its interval, and what it says in words.

    Args:
        own: (seeds,) values of the precision.
        other: (seeds,) values of the baseline, by the same seeds.
        mode: which way of the metric is better, min or max.
    """
    if not len(own):
        return "", "no seed in common"
    if len(own) == 1:  # nothing to draw from
        return f"{own[0] - other[0]:+.4g}", "one seed: no interval"
    found = difference(own, other, paired=True, statistic=_over_seeds)
    said = f"{found.value:+.4g} [{found.low:+.4g}, {found.high:+.4g}]"
    if found.low == found.high == 0:
        return said, "the same with every seed"
    if found.low <= 0 <= found.high:
        return said, f"no difference seen; at most {max(-found.low, found.high):.2g} by the interval"
    word, spread = "better" if (found.value > 0) == (mode == "max") else "worse", other.std(ddof=1)
    beside = f", by {abs(found.value) / spread:.1g} standard deviations between seeds" if spread else ""
    return said, f"{word} by the interval{beside}"


def interval(scores: np.ndarray) -> Interval:
    """Mean over seeds with its percentile bootstrap interval of 95%, which is too short with five seeds: (seeds,)"""
    return bootstrap([scores], _over_seeds)


def comma_separated(cells: Cells) -> str:
    """Every run in a row of its own; a cell without any has one that says why."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["field", "asked", "ran", "seed", "metric", "test", *_LOGGED, "run_id"])
    for (label, precision), found in cells.items():
        if isinstance(found, Unsupported):
            writer.writerow([label, precision, "unsupported", "", found.reason, ""])
            continue
        for one in found:
            logged = [one.metrics.get(name) for name in _LOGGED]
            writer.writerow([label, precision, one.ran, one.seed, one.metric, one.value, *logged, one.run_id])
    return out.getvalue()


def _over_seeds(scores: np.ndarray) -> np.ndarray:
    return np.asarray(scores.mean(-1))


def _mean(scores: np.ndarray) -> str:
    if len(scores) == 1:
        return f"{scores[0]:.4f}"
    found = interval(scores)
    return f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"


def _median(found: Sequence[Result], metric: str, form: str) -> str:
    logged = [one.metrics[metric] for one in found if metric in one.metrics]
    return form.format(np.median(logged)) if logged else ""
