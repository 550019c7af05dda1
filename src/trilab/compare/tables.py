"""A comparison as tables: for people, and for programs."""

import csv
import io
from collections.abc import Iterator, Sequence

import numpy as np

from trilab.compare.across import across
from trilab.compare.columns import label, short, value
from trilab.compare.comparison import FIT, MEMORY, Comparison, Row, Task
from trilab.compare.metric import logged
from trilab.reports.page import Rows
from trilab.statistics import Interval


def shown(comparison: Comparison, task: Task) -> Rows:
    """A row for each group of a task, for people."""
    rates = sorted({row.rate for row in task.rows if row.rate})
    devices = {row.tags("device.name") for row in task.rows}
    rows = []
    for row in task.rows:
        found = row.found
        line = {"group": row.group.name, "n": str(len(row.scores))}
        if task.agents:
            line["IQM [95%]"] = _interval(row.middle, len(row.scores))
        line |= {
            f"{task.metric}, mean [95%]": _interval(row.mean, len(row.scores)),
            "median": f"{np.median(row.scores):.4g}" if len(row.scores) else "none is finite",
            "less the baseline's": _difference(row),
            "times as fast": "" if found is None or found.time is None else _interval(found.time, 2, ".3g", "x"),
        }
        line["fit, s"] = _figure(row.median(FIT))
        for rate in rates:
            name = f"{rate.removeprefix('perf/').removesuffix('_per_s').replace('_', ' ')}/s"
            line[name] = _figure(row.median(rate)) if row.rate == rate else ""
        line["peak MiB"] = _figure(row.median(MEMORY))
        line["ran as"] = row.tags("precision.effective")
        line["device"] = row.tags("device.name") if len(devices) > 1 else row.tags("accelerator.effective")
        rows.append({key: " ".join(text.replace("|", "/").split()) for key, text in line.items()})
    return rows


def shown_across(comparison: Comparison) -> Rows:
    """A row for each method on all tasks together; empty where there is one task."""
    return [
        {
            "group": one.name,
            "runs": str(one.runs),
            "IQM of scaled scores [95%]": str(one.scaled),
            "P(better than the baseline) [95%]": "" if one.better is None else str(one.better),
        }
        for one in across(comparison)
    ]


def of_groups(comparison: Comparison) -> str:
    """CSV with a line for each group, in full precision."""
    lines = [_numbers(comparison, task, row) for task in comparison.tasks for row in task.rows]
    return _csv(list(dict.fromkeys(key for line in lines for key in line)), lines)


def of_runs(comparison: Comparison) -> str:
    """CSV with a line for each run, with all that it has logged, so that others can compute what they like."""
    metrics = [name for name in logged(comparison.samples) if not name.startswith("system/")]
    lines: list[dict[str, object]] = [
        {
            "run_id": sample.run_id,
            "data": sample.data,
            **{column: value(sample, column) for column in comparison.by},
            "seed": sample.seed,
            "device": sample.tags.get("device.name", ""),
            "precision_effective": sample.tags.get("precision.effective", ""),
            "agents_at_once": sample.agents,
            **{name: sample.metric(name) for name in metrics},
        }
        for sample in comparison.samples
    ]
    return _csv(list(lines[0]), lines)


def _numbers(comparison: Comparison, task: Task, row: Row) -> dict[str, object]:
    found = row.found
    line: dict[str, object] = {"data": task.data}
    line |= dict(zip(comparison.by, row.group.values, strict=True))
    line |= {"metric": task.metric, "mode": task.mode, "n": len(row.scores)}
    line |= dict(_ends("mean", row.mean))
    line["median"] = float(np.median(row.scores)) if len(row.scores) else None
    line |= dict(_ends("interquartile_mean", row.middle))
    line |= {"baseline": found.baseline if found else None}
    line |= dict(_ends("difference", found.difference if found else None))
    line |= dict(_ends("ratio", found.ratio if found else None))
    line |= {
        "paired": found.paired if found else None,
        "pairs": found.runs[0] if found and found.paired else None,
        "interval": found.method if found else None,
        "verdict": found.finding if found else None,
    }
    line |= dict(_ends("times_as_fast", found.time if found else None))
    line |= {"fit_s": row.median(FIT), "per_s": row.median(row.rate) if row.rate else None}
    line |= {"per_s_of": row.rate, "peak_memory_mb": row.median(MEMORY)}
    return line | {"precision_effective": row.tags("precision.effective"), "device": row.tags("device.name")}


def _ends(name: str, interval: Interval | None) -> Iterator[tuple[str, float | None]]:
    for end in ("value", "low", "high"):
        key = name if end == "value" else f"{name}_{end}"
        yield key, None if interval is None else float(getattr(interval, end))


def _csv(columns: Sequence[str], lines: Sequence[dict[str, object]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _interval(interval: Interval | None, runs: int, form: str = ".4g", unit: str = "") -> str:
    """`0.99 [0.98, 1]`; without an interval where one run tells nothing of it."""
    if interval is None or not runs:
        return ""
    if runs == 1 or not np.isfinite(interval.high):
        return f"{interval.value:{form}}{unit}"
    return f"{interval.value:{form}}{unit} [{interval.low:{form}}, {interval.high:{form}}]"


def _difference(row: Row) -> str:
    found = row.found
    if found is None:
        return ""
    share = f" ({100 * found.share:+.2g}%)" if np.isfinite(found.share) else ""
    if not np.isfinite(found.difference.high):
        return f"{found.difference.value:+.3g}{share}"
    ends = f"[{found.difference.low:+.3g}, {found.difference.high:+.3g}]"
    return f"{found.difference.value:+.3g} {ends}{share}{'' if found.paired else ', no pairs'}"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def heading(comparison: Comparison, task: Task) -> str:
    """What a task's table is of."""
    way = {"max": "more is better", "min": "less is better"}.get(task.mode, "")
    baseline = next((row.found.baseline for row in task.rows if row.found), "")
    against = f", against {label(list(comparison.baseline), list(comparison.baseline.values()))}" if baseline else ""
    return f"{short(task.data)}: {task.metric}{f' ({way})' if way else ''}{against}"
