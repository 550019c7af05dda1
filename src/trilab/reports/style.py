"""How all plots look."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Okabe & Ito's palette (https://jfly.uni-koeln.de/color/), which colour-blind people can tell apart; yellow left out,
# which nobody can see on white, and a grey and a brown added. Line styles differ too, for print without colours.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#8C510A")
STYLES = ("-", "--", "-.", ":")
PANEL = (5.0, 3.6)  # inches
_DPI = 120


def save(figure: Figure, path: Path) -> bool:
    """Writes a figure and closes it; True, for there is a file now."""
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
    return True
