"""A study's plots: learning curves, final scores, and predicted against real values."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from trilab.reports.rl_runs import Agent, curve, scores
from trilab.reports.rl_tables import Groups
from trilab.reports.style import COLOURS, PANEL, STYLES, save
from trilab.statistics import bootstrap

#: Lines that a legend inside of a panel has room for.
_MOST_INSIDE = 6
#: Draws a level worth comparing with.
Mark = Callable[[Axes, Mapping[str, Sequence[Agent]]], None]


def learning_curves(groups: Groups, path: Path) -> bool:
    """Greedy validation return over environment steps, a panel for each environment. False: no data, no file."""
    label = "return of the greedy policy"
    return _curves(groups, "val/return_mean", label, path, _with_threshold, _order(groups))


def overestimation(groups: Groups, models: Sequence[str], path: Path) -> bool:
    """Predicted less real discounted return at validation, for some of the models. False: no data, no file."""
    chosen = {environment: {m: own[m] for m in models if m in own} for environment, own in groups.items()}
    kept = {environment: own for environment, own in chosen.items() if len(own) == len(models)}
    label = "predicted Q less real return"
    return bool(kept) and _curves(kept, "val/overestimation", label, path, _with_zero, _order(groups))


def final_scores(groups: Groups, path: Path) -> bool:
    """Test returns: interquartile mean, its 95% interval, and every seed as a dot."""
    order = _order(groups)
    figure, axes = plt.subplots(
        1, len(groups), figsize=(PANEL[0] * len(groups), 1.2 + 0.42 * len(order)), squeeze=False, layout="constrained"
    )
    for axis, (environment, models) in zip(axes[0], groups.items(), strict=True):
        for row, model in enumerate(order):
            if model not in models:
                continue
            returns = scores(models[model])
            interval = bootstrap([returns])
            colour = COLOURS[row % len(COLOURS)]
            axis.plot(returns, np.full(len(returns), row), "|", color=colour, alpha=0.6, markersize=9)
            axis.plot([interval.low, interval.high], [row, row], "-", color=colour, linewidth=5, alpha=0.45)
            axis.plot(interval.value, row, "o", color=colour, markersize=7)
        labels = [f"{model} (n={len(models[model])})" if model in models else model for model in order]
        axis.set_yticks(range(len(order)), labels)
        axis.set_ylim(len(order) - 0.5, -0.5)
        threshold = _threshold(models)
        if threshold is not None:
            axis.axvline(threshold, color="grey", linestyle=":", linewidth=1)
        axis.set_title(environment)
        axis.set_xlabel("mean test return")
        axis.grid(axis="x", alpha=0.3)
    figure.supxlabel("dot: interquartile mean over seeds; bar: its 95% interval; strokes: seeds", fontsize="small")
    return save(figure, path)


def _curves(groups: Groups, metric: str, label: str, path: Path, mark: Mark, order: list[str]) -> bool:
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for environment, models in groups.items():
        for model, agents in models.items():
            found = curve(agents, metric)
            if found is not None:
                panels.setdefault(environment, {})[model] = found
    if not panels:
        return False
    figure, axes = plt.subplots(
        1, len(panels), figsize=(PANEL[0] * len(panels), PANEL[1]), squeeze=False, layout="constrained"
    )
    for axis, (environment, lines) in zip(axes[0], panels.items(), strict=True):
        for model, (steps, values) in lines.items():
            which = order.index(model)
            colour, style = COLOURS[which % len(COLOURS)], STYLES[which % len(STYLES)]
            band = bootstrap([values])
            axis.plot(steps, band.value, style, color=colour, linewidth=1.6, label=f"{model} (n={len(values)})")
            axis.fill_between(steps, band.low, band.high, color=colour, alpha=0.15, linewidth=0)
        mark(axis, groups[environment])
        axis.set_title(environment)
        axis.set_xlabel("environment steps")
        axis.set_ylabel(f"{label}\nIQM over seeds, 95% interval")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
        if len(order) <= _MOST_INSIDE:
            axis.legend(fontsize="small", framealpha=0.85)
    if len(order) > _MOST_INSIDE:  # once for all panels, of the one that has the most lines
        handles, labels = max((axis.get_legend_handles_labels() for axis in axes[0]), key=lambda found: len(found[0]))
        figure.legend(handles, labels, loc="outside right center", fontsize="small")
    return save(figure, path)


def _with_threshold(axis: Axes, models: Mapping[str, Sequence[Agent]]) -> None:
    threshold = _threshold(models)
    if threshold is not None:
        axis.axhline(threshold, color="grey", linestyle=":", linewidth=1, label="solved")


def _with_zero(axis: Axes, models: Mapping[str, Sequence[Agent]]) -> None:
    axis.axhline(0.0, color="grey", linestyle=":", linewidth=1, label="no overestimation")


def _threshold(models: Mapping[str, Sequence[Agent]]) -> float | None:
    return next((agent.threshold for agents in models.values() for agent in agents), None)


def _order(groups: Groups) -> list[str]:
    """Every model once, in the order of the groups, so that each keeps its colour in all plots."""
    return list(dict.fromkeys(model for models in groups.values() for model in models))
