"""The bar chart of a study of devices: seconds of an epoch, a panel for each machine."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from trilab.reports.device_tables import names
from trilab.reports.page import Rows
from trilab.reports.style import COLOURS, PANEL, save

_WIDTH = 0.8  # of all bars of a data set and accelerator, whose places are 1 apart


def epochs(rows: Rows, path: Path) -> bool:
    """Median of the epochs in turns with their interquartile range; an accelerator's data sets side by side.

    False: nothing was timed in turns, and there is no file.
    """
    if not any(row["window_s"] for row in rows):
        return False
    precisions, panels = names(rows, "precision"), names(rows, "machine")
    colours = {precision: COLOURS[1 + place % (len(COLOURS) - 1)] for place, precision in enumerate(precisions)}
    cells = {machine: _places([row for row in rows if row["machine"] == machine]) for machine in panels}
    widest = max(map(len, cells.values()))
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(max(PANEL[0], 1.5 + 1.4 * widest), PANEL[1] * len(panels)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, machine in zip(axes[:, 0], panels, strict=True):
        own = [row for row in rows if row["machine"] == machine]
        top = max((float(row["window_high_s"]) for row in own if row["window_s"]), default=1.0)
        for row in own:
            place = cells[machine].index((row["data"], row["accelerator"]))
            offset = (precisions.index(row["precision"]) - (len(precisions) - 1) / 2) * _WIDTH / len(precisions)
            _bar(axis, row, place + offset, _WIDTH / len(precisions), colours[row["precision"]], top)
        axis.set_xticks(range(len(cells[machine])), [f"{data}\n{accelerator}" for data, accelerator in cells[machine]])
        axis.set_xlim(-0.6, len(cells[machine]) - 0.4)
        axis.set_ylim(0, top * 1.18)
        axis.set_ylabel("seconds of an epoch")
        axis.set_title(machine)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    handles = [Patch(color=colour, label=precision) for precision, colour in colours.items()]
    figure.legend(handles=handles, loc="outside right upper", fontsize="small")
    figure.supxlabel("bar: median of the epochs in turns; whiskers: interquartile range", fontsize="small")
    return save(figure, path)


def _places(rows: Rows) -> list[tuple[str, str]]:
    """Data sets and accelerators, the accelerators together."""
    order = names(rows, "accelerator")
    found = dict.fromkeys((row["data"], row["accelerator"]) for row in rows)
    return sorted(found, key=lambda cell: order.index(cell[1]))


def _bar(axis: Axes, row: dict[str, str], x: float, width: float, colour: str, top: float) -> None:
    if row["unsupported"]:
        axis.text(x, 0.02 * top, "unsupported", rotation=90, ha="center", va="bottom", fontsize="x-small", color="grey")
        return
    if not row["window_s"]:
        return
    middle, low, high = (float(row[name]) for name in ("window_s", "window_low_s", "window_high_s"))
    axis.bar(x, middle, width * 0.94, color=colour)
    axis.errorbar(x, middle, [[middle - low], [high - middle]], color="black", capsize=3, linewidth=1.2)
    axis.text(x, high + 0.02 * top, f"{middle:.3g}", ha="center", va="bottom", fontsize="x-small")
