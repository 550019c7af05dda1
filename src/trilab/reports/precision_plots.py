"""A study of precisions as plots: the claims, the fields, and the grid of speed and memory."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from trilab.numerics.speed_grid import Cell
from trilab.numerics.underflow import HIGHEST, LOWEST, cast_shares, exponents
from trilab.reports.precision_claims import SCALES, Claims
from trilab.reports.precision_runs import Cells, values
from trilab.reports.precision_tables import interval
from trilab.reports.style import COLOURS, PANEL, STYLES, save
from trilab.timing import Unsupported

_MIB = 2**20


def claims(found: Claims, path: Path) -> bool:
    """A panel for each claim."""
    figure, axes = plt.subplots(2, 3, figsize=(PANEL[0] * 2.8, PANEL[1] * 2), layout="constrained")
    _updates(axes[0][0], found)
    _scale(axes[1][0], found)
    _memory(axes[1][1], found)
    if found.gradients is None:
        axes[0][1].set_axis_off()
        axes[0][2].set_axis_off()
    else:
        _histogram(axes[0][1], found)
        _zeros(axes[0][2], found)
    axes[1][2].set_axis_off()
    handles, labels = axes[1][1].get_legend_handles_labels()
    axes[1][2].legend(handles, labels, loc="center left", title="kept for the backward pass")
    return save(figure, path)


def _updates(axis: Axes, found: Claims) -> None:
    for place, (name, weights) in enumerate(found.updates.items()):
        axis.plot(weights, STYLES[place], color=COLOURS[place + 1], linewidth=2, label=name)
    axis.set_title("a weight of 1, updates of -0.0001")
    axis.set_xlabel("update")
    axis.set_ylabel("weight")
    _finish(axis)


def _histogram(axis: Axes, found: Claims) -> None:
    assert found.gradients is not None
    for place, (name, own) in enumerate(zip(("activations", "weights"), found.gradients, strict=True)):
        axis.stairs(
            exponents(own) * 100, np.arange(LOWEST, HIGHEST + 2), color=COLOURS[place + 1], linewidth=1.5, label=name
        )
    axis.axvspan(LOWEST, -25, color="grey", alpha=0.2, label="zero in float16")
    axis.axvspan(-25, -14, color="grey", alpha=0.08, label="subnormal in float16")
    axis.set_xlim(-45, 5)
    axis.set_title("gradients of a CNN")
    axis.set_xlabel("size, as a power of two")
    axis.set_ylabel("share of those not zero, %")
    _finish(axis)


def _zeros(axis: Axes, found: Claims) -> None:
    assert found.gradients is not None
    lines = [("activations", 0, torch.float16), ("weights", 1, torch.float16), ("activations", 0, torch.bfloat16)]
    for place, (name, which, dtype) in enumerate(lines):
        shares = [100 * cast_shares(found.gradients[which], scale, dtype)[0] for scale in SCALES]
        label = f"{name}, {str(dtype).removeprefix('torch.')}"
        axis.plot(np.log2(SCALES), shares, STYLES[place], marker="o", color=COLOURS[place + 1], label=label)
    infinite = [100 * cast_shares(found.gradients[1], scale, torch.float16)[1] for scale in SCALES]
    axis.plot(np.log2(SCALES), infinite, "x", color="grey", label="weights, float16: infinite")
    axis.set_title("gradients that become zero")
    axis.set_xlabel("loss scale, as a power of two")
    axis.set_ylabel("share of those not zero in fp32, %")
    _finish(axis)


def _scale(axis: Axes, found: Claims) -> None:
    scales, skipped = np.log2(found.trace.scales), found.trace.skipped
    axis.step(range(len(scales)), scales, where="post", color=COLOURS[2], linewidth=1.5, label="loss scale")
    axis.plot(skipped, scales[skipped], "x", color=COLOURS[4], label=f"step skipped ({len(skipped)})")
    axis.set_title("dynamic loss scaling, float16 on the CPU")
    axis.set_xlabel("step")
    axis.set_ylabel("loss scale, as a power of two")
    _finish(axis)


def _memory(axis: Axes, found: Claims) -> None:
    bars = [(network, precision, own) for network, each in found.memory.items() for precision, own in each.items()]
    whole = {network: each["fp32"].total for network, each in found.memory.items()}
    bottom = np.zeros(len(bars))
    for place, (name, title) in enumerate(
        {"floats": "float activations", "integers": "integers", "weight_copies": "weights cast by autocast"}.items()
    ):
        shares = np.array([100 * getattr(own, name) / whole[network] for network, _, own in bars])
        axis.bar(range(len(bars)), shares, bottom=bottom, color=COLOURS[place + 1], label=title)
        bottom += shares
    axis.set_xticks(range(len(bars)), [f"{network} {p}" for network, p, _ in bars], rotation=45, ha="right", fontsize=7)
    axis.axhline(50, color="grey", linestyle=":", linewidth=1)
    axis.set_title("memory kept for the backward pass")
    axis.set_ylabel("% of fp32")


def fields(cells: Cells, baseline: str, path: Path) -> bool:
    """A panel for each field: every seed, the mean and its interval, in every precision."""
    labels = list(dict.fromkeys(label for label, _ in cells))
    figure, axes = plt.subplots(
        1, len(labels), figsize=(PANEL[0] * 0.8 * len(labels), PANEL[1] * 0.8), squeeze=False, layout="constrained"
    )
    for axis, label in zip(axes[0], labels, strict=True):
        precisions = [precision for own, precision in cells if own == label]
        for place, precision in enumerate(precisions):
            found, colour = cells[label, precision], COLOURS[place % len(COLOURS)]
            if isinstance(found, Unsupported):
                middle = axis.get_yaxis_transform()
                axis.text(0.5, place, f"{found}: {found.reason}", transform=middle, ha="center", va="center", size=8)
                continue
            scores = values(found)
            axis.plot(scores, np.full(len(scores), place), "|", color=colour, markersize=12)
            if len(scores) > 1:
                band = interval(scores)
                axis.plot([band.low, band.high], [place, place], "-", color=colour, linewidth=5, alpha=0.45)
            axis.plot(scores.mean(), place, "o", color=colour, markersize=7)
            axis.set_xlabel(f"test {found[0].metric}")
        axis.set_yticks(range(len(precisions)), precisions)
        axis.set_ylim(len(precisions) - 0.5, -0.5)
        axis.ticklabel_format(axis="x", useOffset=False)
        axis.tick_params(axis="x", labelsize="small")
        axis.set_title(label)
        axis.grid(axis="x", alpha=0.3)
    figure.supxlabel("dot: mean over seeds; bar: its 95% interval; strokes: seeds", fontsize="small")
    return save(figure, path)


def speed(cells: Sequence[Cell], path: Path) -> bool:
    """How many times as fast as fp32, and how much of its memory, by width and batch. False: no cells, no file."""
    shown = [p for p in dict.fromkeys(cell.precision for cell in cells) if p != "fp32" and _supported(cells, p)]
    if not shown:
        return False
    figure, axes = plt.subplots(
        len(shown), 2, figsize=(PANEL[0] * 2, PANEL[1] * len(shown)), squeeze=False, layout="constrained"
    )
    fp32 = {(cell.width, cell.batch): cell for cell in cells if cell.precision == "fp32"}
    for row, precision in zip(axes, shown, strict=True):
        own = {(cell.width, cell.batch): cell for cell in cells if cell.precision == precision}
        faster = {key: cell.speedup.median for key, cell in own.items() if not isinstance(cell.speedup, Unsupported)}
        memory: dict[tuple[int, int], float] = {}
        for key, cell in own.items():
            mine, base = cell.memory_mb, fp32[key].memory_mb
            # What a small step needs is below what a process's resident set can tell.
            if not isinstance(mine, Unsupported) and not isinstance(base, Unsupported) and base >= 10:
                memory[key] = mine / base
        _map(row[0], faster, f"{precision}: times as fast as fp32", "{:.2g}x")
        _map(row[1], memory, f"{precision}: share of fp32's memory", "{:.2f}", better_is_less=True)
    return save(figure, path)


def _map(axis: Axes, found: dict[tuple[int, int], float], title: str, form: str, better_is_less: bool = False) -> None:
    """Purple where it helps, orange where it hurts, on a scale of logarithms."""
    widths, batches = (sorted({key[place] for key in found}) for place in (0, 1))
    grid = np.array([[found.get((width, batch), np.nan) for width in widths] for batch in batches])
    colours = np.log2(grid) * (-1 if better_is_less else 1)
    bound = max(0.5, float(np.nanmax(np.abs(colours)))) if found else 1.0
    axis.imshow(colours, cmap="PuOr", vmin=-bound, vmax=bound, aspect="auto", origin="lower", alpha=0.75)
    for (width, batch), value in found.items():
        axis.text(widths.index(width), batches.index(batch), form.format(value), ha="center", va="center")
    axis.set_xticks(range(len(widths)), [f"{width:,}" for width in widths])
    axis.set_yticks(range(len(batches)), [f"{batch:,}" for batch in batches])
    axis.set_xlabel("width of the MLP")
    axis.set_ylabel("batch")
    axis.set_title(title)


def _supported(cells: Sequence[Cell], precision: str) -> bool:
    return any(cell.precision == precision and not isinstance(cell.speedup, Unsupported) for cell in cells)


def _finish(axis: Axes) -> None:
    axis.grid(alpha=0.3)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.legend(fontsize="x-small", framealpha=0.85)
