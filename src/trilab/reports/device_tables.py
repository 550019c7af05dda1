"""The table of all machines that a study of devices was ever run on: read, extended and shown."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from trilab.errors import ConfigError
from trilab.reports.device_runs import COLUMNS
from trilab.reports.page import Rows


def read(path: Path) -> Rows:
    """The rows that a table holds; none where there is no table.

    Raises:
        ConfigError: it is no table of devices.
    """
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        found = csv.DictReader(file)
        if missing := set(COLUMNS) - set(found.fieldnames or ()):
            raise ConfigError(f"{path}: no column {', '.join(sorted(missing))}: not a table of devices. Remove it.")
        return [{name: row[name] for name in COLUMNS} for row in found]


def merged(old: Rows, new: Rows) -> Rows:
    """The rows of other machines as they were, then those of this one.

    Of this machine, all rows of a data set and accelerator that were measured again give way together, for a speed-up
    belongs to the baseline it was measured in turns with. What was not measured again stays, with its own date.
    """
    again = {_group(row) for row in new}
    kept = [row for row in old if _group(row) not in again]
    names = list(dict.fromkeys(row["machine"] for row in [*old, *new]))
    return sorted([*kept, *new], key=lambda row: names.index(row["machine"]))


def _group(row: dict[str, str]) -> tuple[str, ...]:
    return row["machine"], row["data"], row["accelerator"]


def comma_separated(rows: Rows) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def shown(rows: Rows, baseline: str) -> Rows:
    """For people: a line for each cell."""
    return [_line(row, baseline) for row in rows]


def machines(rows: Rows) -> Rows:
    """For people: what the figures of each machine and accelerator depend on, as its latest rows say."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in sorted((row for row in rows if not row["unsupported"]), key=lambda row: row["date"]):
        found[row["machine"], row["accelerator"]] = {
            "machine": row["machine"],
            "accelerator": row["accelerator"],
            "device": row["device"],
            "torch": row["torch"],
            "threads": row["threads"],
            "fp32 products": row["matmul_precision"],
            "memory format": row["memory_format"],
            "allocator": row["allocator"],
            "measured": row["date"],
        }
    return list(found.values())


def _line(row: dict[str, str], baseline: str) -> dict[str, str]:
    cannot = bool(row["unsupported"])
    return {
        "machine": row["machine"],
        "data": row["data"],
        "accelerator": row["accelerator"],
        "precision": row["precision"],
        "epoch, s, average": "unsupported" if cannot else row["average_epoch_s"],
        "of epochs": row["epochs"],
        "first epoch, s": row["first_epoch_s"],
        "later epochs, s, average": row["later_epoch_s"],
        "epoch in turns, s, median [IQR]": _range(row, "window_s", "window_low_s", "window_high_s"),
        f"speed-up over {baseline}, median [IQR]": _range(row, "speedup", "speedup_low", "speedup_high"),
        "images/s": f"{float(row['images_per_s']):,.0f}" if row["images_per_s"] else "",
        "peak memory, MiB": f"{float(row['peak_memory_mb']):,.0f}" if row["peak_memory_mb"] else "",
        "test accuracy, mean (min to max)": _accuracy(row),
        "seeds": row["seeds"],
        "measured": row["date"],
    }


def _range(row: dict[str, str], middle: str, low: str, high: str) -> str:
    return f"{_short(row[middle])} [{_short(row[low])}, {_short(row[high])}]" if row[middle] else ""


def _short(number: str) -> str:
    return f"{float(number):.3g}"


def _accuracy(row: dict[str, str]) -> str:
    if not row["accuracy"]:
        return ""
    return f"{row['accuracy']} ({row['accuracy_min']} to {row['accuracy_max']})"


def names(rows: Rows, column: str) -> Sequence[str]:
    """A column's values, each once, in the order of the rows."""
    return list(dict.fromkeys(row[column] for row in rows))
