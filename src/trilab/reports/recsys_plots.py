"""A study's plots: every row's metrics with their intervals, and metrics over a parameter beside published ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from trilab.reports.recsys_runs import Groups, Result, Row, number, values
from trilab.reports.recsys_tables import interval, row_of
from trilab.reports.study import Study
from trilab.reports.style import COLOURS, PANEL, STYLES, save

Published = Mapping[Row, Mapping[str, float]]
#: Where there are more models than colours, those that have one for the second and third time.
_MARKERS, _LINES = ("o", "s", "^"), (STYLES[0], STYLES[2], STYLES[3])


def bars(groups: Groups, study: Study, path: Path) -> bool:
    """A panel for each metric: mean, 95% interval and every seed of each row, and what was published of it."""
    published = _published(study)
    models = list(dict.fromkeys(row[0] for row in groups))
    figure, axes = plt.subplots(
        1,
        len(study.metrics),
        figsize=(PANEL[0] * 0.7 * len(study.metrics), 1.2 + 0.42 * len(groups)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, metric in zip(axes[0], study.metrics, strict=True):
        for place, (row, found) in enumerate(groups.items()):
            scores, (colour, marker, _) = values(found, metric), _look(models.index(row[0]))
            axis.plot(scores, np.full(len(scores), place), "|", color=colour, alpha=0.6, markersize=9)
            if len(scores) > 1:
                band = interval(scores)
                axis.plot([band.low, band.high], [place, place], "-", color=colour, linewidth=5, alpha=0.45)
            axis.plot(scores.mean(), place, marker, color=colour, markersize=7)
            if metric in published.get(row, {}):
                axis.plot(published[row][metric], place, "D", color=colour, markerfacecolor="none")
        axis.set_title(metric)
        axis.grid(axis="x", alpha=0.3)
    labels = [f"{' '.join(row).strip()} (n={len(found)})" for row, found in groups.items()]
    axes[0][0].set_yticks(range(len(groups)), labels)
    axes[0][0].set_ylim(len(groups) - 0.5, -0.5)
    told = "dot: mean over seeds; bar: its 95% interval; strokes: seeds"
    figure.supxlabel(told + ("; diamond: published" if published else ""), fontsize="small")
    return save(figure, path)


def curves(groups: Groups, study: Study, path: Path) -> bool:
    """A panel for each metric over the second of `by`: ours as lines, published ones as dashed lines of that colour.

    Models without that parameter are level lines. False: the study has no second one that is a number, and no file.
    """
    if len(study.by) != 2 or not any(number(row[1]) is not None for row in groups):
        return False
    published = _published(study)
    models = list(dict.fromkeys([row[0] for row in (*groups, *published)]))
    figure, axes = plt.subplots(
        1, len(study.metrics), figsize=(PANEL[0] * len(study.metrics), PANEL[1]), squeeze=False, layout="constrained"
    )
    for axis, metric in zip(axes[0], study.metrics, strict=True):
        for place, model in enumerate(models):
            colour, marker, style = _look(place)
            ours = {row[1]: _mean(found, metric) for row, found in groups.items() if row[0] == model}
            theirs = {row[1]: own[metric] for row, own in published.items() if row[0] == model and metric in own}
            _line(axis, ours, colour, style, marker, model)
            _line(axis, theirs, colour, STYLES[1], "D", f"{model}, published")
        ticks = sorted({x for row in (*groups, *published) if (x := number(row[1])) is not None})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(metric)
        axis.set_xlabel(study.by[1].rpartition(".")[2])
        axis.grid(alpha=0.3)
    axes[0][-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save(figure, path)


def _look(place: int) -> tuple[str, str, str]:
    """Colour, marker and line of the model in that place."""
    again, colour = divmod(place, len(COLOURS))
    return COLOURS[colour], _MARKERS[again % len(_MARKERS)], _LINES[again % len(_LINES)]


def _line(axis: Axes, points: Mapping[str, float], colour: str, style: str, marker: str, label: str) -> None:
    placed = sorted((x, y) for text, y in points.items() if (x := number(text)) is not None)
    fill = "none" if style == STYLES[1] else colour
    if placed:
        axis.plot(*zip(*placed, strict=True), style, marker=marker, color=colour, markerfacecolor=fill, label=label)
    for text, y in points.items():
        if number(text) is None:
            axis.axhline(y, linestyle=style, color=colour, linewidth=1, label=label)


def _mean(found: Sequence[Result], metric: str) -> float:
    return float(values(found, metric).mean())


def _published(study: Study) -> Published:
    return {
        row_of(entry, study.by): {metric: float(entry[metric]) for metric in study.metrics if metric in entry}
        for entry in study.published
    }
