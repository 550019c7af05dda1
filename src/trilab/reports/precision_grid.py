"""The grid of speed and memory of a study: measured once on a machine, and kept beside its other results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trilab.numerics.speed_grid import Cell, measure
from trilab.reports.page import Rows
from trilab.reports.precision_plan import PrecisionStudy
from trilab.runtime import Accelerator
from trilab.timing import Quartiles, Unsupported, machine_settings

NAME = "speed.json"


def renew(study: PrecisionStudy, path: Path) -> None:
    """Measures the grid, unless the file holds it as this machine, with these settings, has measured it.

    It is measured with the settings that a run has: those of `trilab.runtime.Accelerator`.
    """
    accelerator = Accelerator("auto", threads=study.threads)
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    accelerator.prepare()
    try:
        device = accelerator.device()
        asked = {"widths": study.widths, "batches": study.batches, "windows": study.windows}
        settings = machine_settings(device)
        if path.is_file():
            known = json.loads(path.read_text())
            if (known["asked"], known["settings"]) == (asked, settings):
                return
        cells = [_plain(cell) for cell in measure(study.widths, study.batches, device, study.windows)]
        path.write_text(json.dumps({"asked": asked, "settings": settings, "cells": cells}, indent=1) + "\n")
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])


def read(path: Path) -> tuple[list[Cell], dict[str, str]]:
    """The cells, and the settings that they were measured with; none of both where there is no file."""
    if not path.is_file():
        return [], {}
    content = json.loads(path.read_text())
    return [_cell(one) for one in content["cells"]], content["settings"]


def table(cells: Sequence[Cell]) -> Rows:
    """A row for each width and batch size, with fp32's step and the others against it."""
    rows: Rows = []
    for fp32 in (cell for cell in cells if cell.precision == "fp32"):
        row = {"MLP of width": f"{fp32.width:,}", "batch": f"{fp32.batch:,}", "fp32 step, ms": _quartiles(fp32.step_ms)}
        row["fp32 memory, MiB"] = _number(fp32.memory_mb)
        for own in cells:
            if (own.width, own.batch) == (fp32.width, fp32.batch) and own is not fp32:
                row[f"{own.precision}, times as fast"] = _quartiles(own.speedup)
                row[f"{own.precision} memory, MiB"] = _number(own.memory_mb)
        rows.append(row)
    return rows


def _quartiles(value: Quartiles | Unsupported) -> str:
    return (
        str(value)
        if isinstance(value, Unsupported)
        else f"{_short(value.median)} [{_short(value.low)}, {_short(value.high)}]"
    )


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _number(value: float | Unsupported) -> str:
    return str(value) if isinstance(value, Unsupported) else f"{value:.0f}"


def _plain(cell: Cell) -> dict[str, Any]:
    return {
        name: {"unsupported": value.reason} if isinstance(value, Unsupported) else value
        for name, value in vars(cell).items()
    }


def _cell(content: dict[str, Any]) -> Cell:
    values: dict[str, Any] = {
        name: Unsupported(value["unsupported"])
        if isinstance(value, dict)
        else Quartiles(*value)
        if isinstance(value, list)
        else value
        for name, value in content.items()
    }
    return Cell(**values)
