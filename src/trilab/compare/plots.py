"""The plots of a comparison: learning curves, scores with their intervals, and speed against quality."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from mlflow import MlflowClient

from trilab.compare.columns import short
from trilab.compare.comparison import FIT, Comparison, Task
from trilab.compare.curves import Axis, Curve, curve, drawn, histories, metric_of
from trilab.compare.verdict import BOOTSTRAP_FROM
from trilab.reports.style import COLOURS, PANEL, STYLES, save

#: Rows of the plot of scores; more would be a page long.
_MOST_ROWS = 30
_MARKERS = "osD^vPX*"


def draw(client: MlflowClient, comparison: Comparison, folder: Path) -> list[tuple[str, str]]:
    """Writes every plot that there is something to show in, and returns each file's name and caption.

    Args:
        client: of the store, for the histories.
        comparison: what is drawn.
        folder: for the files.
    """
    found = []
    for task in comparison.tasks:
        prefix = f"{short(task.data)}_" if len(comparison.tasks) > 1 else ""
        title = short(task.data)
        found += _curves(client, task, title, folder, prefix)
        if _scores(task, title, folder / f"{prefix}scores.png"):
            found.append((f"{prefix}scores.png", _scores_caption(task)))
        if _speed(task, title, folder / f"{prefix}speed_and_quality.png"):
            caption = "Speed against quality: medians of a fit's seconds, and the means with their intervals."
            found.append((f"{prefix}speed_and_quality.png", caption))
    return found


def _curves(client: MlflowClient, task: Task, title: str, folder: Path, prefix: str) -> list[tuple[str, str]]:
    metric = metric_of(task)
    if metric is None:
        return []
    rows = drawn(task)
    samples = [sample for row in rows for sample in row.group.samples]
    by_run = dict(zip([s.run_id for s in samples], histories(client, samples, metric), strict=True))
    counted = samples[0].tags.get("trilab.x_axis", "steps").replace("_", " ").replace("env ", "environment ")
    named: list[tuple[Axis, str, str]] = [
        ("seconds", "seconds since the fit began", "over_time"),
        ("steps", counted.replace("optimizer", "optimiser"), "over_steps"),
    ]
    written = []
    for axis, label, name in named:
        lines = [curve(r.group.name, [by_run[s.run_id] for s in r.group.samples], axis, task.agents) for r in rows]
        places = [place for place, row in enumerate(task.rows) if any(row is one for one in rows)]
        kept = [(place, line) for place, line in zip(places, lines, strict=True) if line]
        if kept:
            figure, own = plt.subplots(figsize=(PANEL[0] * 1.5, PANEL[1] * 1.35), layout="constrained")
            _draw_curves(own, kept)
            own.set(title=title, xlabel=label, ylabel=metric)
            if axis == "steps":
                own.xaxis.set_major_formatter(EngFormatter(sep=""))
            save(figure, folder / f"{prefix}curves_{name}.png")
            caption = _curves_caption(metric, label, [line for _, line in kept], task, len(task.rows))
            written.append((f"{prefix}curves_{name}.png", caption))
    return written


def _draw_curves(axis: Axes, lines: Sequence[tuple[int, Curve]]) -> None:
    for place, line in lines:
        colour, style = COLOURS[place % len(COLOURS)], STYLES[place % len(STYLES)]
        axis.plot(line.x, line.middle, style, color=colour, linewidth=1.8, label=f"{line.name} (n={line.runs})")
        axis.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", framealpha=0.85)


def _curves_caption(metric: str, label: str, lines: Sequence[Curve], task: Task, groups: int) -> str:
    middle = "Interquartile mean" if task.agents else "Mean"
    few, many = "from the lowest run to the highest", "95% interval of a bootstrap over runs"
    sizes = [line.runs for line in lines]
    shades = (
        many if min(sizes) >= BOOTSTRAP_FROM else few if max(sizes) < BOOTSTRAP_FROM else f"{few}; {many} from ten on"
    )
    left = f" The {len(lines)} best of {groups} groups." if groups > len(lines) else ""
    return f"{metric} over {label}. {middle} over runs; shaded: {shades}. As far as every run of a group goes.{left}"


def _scores(task: Task, title: str, path: Path) -> bool:
    rows = [row for row in task.rows if len(row.scores)][:_MOST_ROWS]
    if not rows:
        return False
    size = PANEL[0] * 1.5, 1.3 + 0.45 * len(rows)
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    for place, row in enumerate(rows):
        colour = COLOURS[place % len(COLOURS)]
        if len(row.scores) > 1:
            axis.plot([row.centre.low, row.centre.high], [place, place], color=colour, linewidth=6, alpha=0.4)
            axis.plot(row.scores, np.full(len(row.scores), place), "|", color=colour, alpha=0.8, markersize=11)
        axis.plot(row.centre.value, place, "o", color=colour, markersize=7)
    axis.set_yticks(range(len(rows)), [f"{row.group.name} (n={len(row.scores)})" for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set(title=title, xlabel=_better(task))
    axis.ticklabel_format(axis="x", useOffset=False)
    axis.grid(axis="x", alpha=0.3)
    return save(figure, path)


def _scores_caption(task: Task) -> str:
    middle = "interquartile mean" if task.agents else "mean"
    caption = f"{task.metric}. Dot: {middle}; bar: 95% interval of a bootstrap over runs; strokes: the runs."
    return caption + (f" The first {_MOST_ROWS} of {len(task.rows)} groups." if len(task.rows) > _MOST_ROWS else "")


def _speed(task: Task, title: str, path: Path) -> bool:
    places = [(place, row) for place, row in enumerate(task.rows) if len(row.scores) and row.median(FIT) is not None]
    if len(places) < 2 or len(places) > _MOST_ROWS or task.metric.startswith("perf/"):
        return False
    figure, axis = plt.subplots(figsize=(PANEL[0] * 1.5, PANEL[1] * 1.35), layout="constrained")
    for place, row in places:
        seconds, colour = np.array(list(row.group.of(FIT).values())), COLOURS[place % len(COLOURS)]
        middle = float(np.median(seconds))
        if len(row.scores) > 1:
            axis.plot([middle, middle], [row.centre.low, row.centre.high], color=colour, linewidth=1.5, alpha=0.7)
        axis.plot([seconds.min(), seconds.max()], [row.centre.value] * 2, color=colour, linewidth=1.5, alpha=0.7)
        marker = _MARKERS[place % len(_MARKERS)]
        axis.plot(middle, row.centre.value, marker, color=colour, markersize=9, label=row.group.name)
    axis.set(title=title, xlabel="seconds of a fit (fewer is faster)", ylabel=_better(task))
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.grid(alpha=0.3)
    axis.margins(0.12)
    figure.legend(loc="outside right upper", fontsize="small")
    return save(figure, path)


def _better(task: Task) -> str:
    way = {"max": " (more is better)", "min": " (less is better)"}.get(task.mode, "")
    return f"{task.metric}{way}"
