"""Small raw tables of clicks, and data modules for them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from trilab.data.recsys.tables import ClickTable

CONF = Path(__file__).parents[3] / "conf" / "data" / "recsys"
Row = tuple[str, ...]
NAMES = ("label", "price", "count", "user", "item")


def rows_of(n: int, seed: int = 0) -> list[Row]:
    """label, price (with gaps), count (with gaps, some negative), user (a large number), item (a text, with gaps)."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        user = 2**53 + int(rng.geometric(0.05))
        item = "" if rng.random() < 0.1 else f"é{int(rng.geometric(0.1))}"
        price = "" if rng.random() < 0.2 else f"{rng.lognormal():.4f}"
        count = "" if rng.random() < 0.3 else str(int(rng.integers(-2, 50)))
        rows.append((str(int(rng.random() < 0.3)), price, count, str(user), item))
    return rows


def write(path: Path, rows: Sequence[Row], header: Sequence[str] | None = NAMES, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerows([header, *rows] if header else rows)
    return path


def data_of(train: Path | Sequence[Path], **changes: Any) -> ClickTable:
    """As `data=recsys/csv` has it, with small blocks; the cache lies beside the first file."""
    defaults = yaml.safe_load((CONF / "csv.yaml").read_text())
    del defaults["_target_"]
    first = train if isinstance(train, Path) else train[0]
    own = {
        "train_path": str(train) if isinstance(train, Path) else [str(path) for path in train],
        "label": "label",
        "dense": ["price", "count"],
        "categorical": ["user", "item"],
        "cache": str(first.parent / "cache"),
        "min_count": 3,
        "block_rows": 64,
        "mixed_blocks": 3,
        "batch_size": 50,
        "eval_batch_size": 70,
        "seed": 1,
    }
    return ClickTable(**{**defaults, **own, **changes})


def ready(train: Path | Sequence[Path], **changes: Any) -> ClickTable:
    data = data_of(train, **changes)
    data.prepare_data()
    data.setup("fit")
    return data


def batches(data: ClickTable, part: str) -> tuple[torch.Tensor, ...]:
    """All rows of a part as its loader gives them."""
    loader = {"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}[part]()
    return tuple(torch.cat(column) for column in zip(*loader, strict=True))


def in_file_order(data: ClickTable, part: str) -> tuple[torch.Tensor, ...]:
    """All rows of a part in the order of its files."""
    return tuple(torch.cat(column) for column in zip(*data._batches(part, 64), strict=True))
