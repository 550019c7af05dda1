"""The click log that all contenders of `recsys_throughput.py` train on, in a file that needs no trilab to be read.

26 categorical fields with the sizes of Criteo's (Kaggle 2014), the largest of them capped so that together they have a
given number of ids, and 13 dense features. Clicks are drawn from a planted factorization machine, by
`trilab.data.recsys.synthetic`: trilab draws the same rows from the same overrides.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: Distinct values of C1 to C26 in Criteo's training file.
CRITEO = [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194]
CRITEO += [27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572]
DENSE = 13
BATCH = 4096
TABLE_ROWS = 1_030_000
SEED = 1  # of the rows and of the planted model: every turn has the same data
VAL_ROWS = 2 * BATCH


@dataclass(frozen=True)
class Log:
    """A click log: training rows, and rows to validate and to test on."""

    cardinalities: tuple[int, ...]
    train: tuple[np.ndarray, np.ndarray, np.ndarray]  # int32 (rows, 26), float32 (rows, 13), float32 (rows,)
    val: tuple[np.ndarray, np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray, np.ndarray]


def field_sizes(rows: int) -> list[int]:
    """Criteo's field sizes, capped where their sum comes nearest to `rows` from below: 26 to 33.8 million."""
    low, high = 1, max(CRITEO)
    while low < high:
        cap = (low + high + 1) // 2
        low, high = (cap, high) if sum(min(size, cap) for size in CRITEO) <= rows else (low, cap - 1)
    return [min(size, low) for size in CRITEO]


def settings(table_rows: int, train_rows: int, test_rows: int) -> dict[str, Any]:
    """Arguments of SyntheticClicks that say what the log is."""
    return {
        "train_rows": train_rows,
        "val_rows": VAL_ROWS,
        "test_rows": test_rows,
        "fields": len(CRITEO),
        "cardinality": field_sizes(table_rows),
        "exponent": 1.1,
        "dense": DENSE,
        "factors": 4,
        "signal": 2.0,
        "interaction": 0.5,
        "bias": -1.0,
        "planted_seed": SEED,
        "batch_size": BATCH,
        "eval_batch_size": 16384,
        "seed": SEED,
    }


def overrides(table_rows: int, train_rows: int, test_rows: int) -> list[str]:
    """The same for `trilab train`, on the synthetic click log."""
    values = settings(table_rows, train_rows, test_rows)
    return [f"data.{name}={str(value).replace(' ', '')}" for name, value in values.items()]


def write(path: Path, table_rows: int, train_rows: int, test_rows: int) -> dict[str, float]:
    """Draws the log and writes it. Returns the AUC and log loss of the true probabilities on the test rows."""
    from trilab.runtime import prepare_imports

    prepare_imports()
    from trilab.data.recsys.synthetic import SyntheticClicks

    data = SyntheticClicks(**settings(table_rows, train_rows, test_rows))
    data.setup("fit")
    columns: dict[str, np.ndarray] = {"cardinalities": np.array(data.spec.cardinalities)}
    for part, (ids, dense, labels) in data.parts.items():
        columns[f"{part}_ids"] = ids.numpy().astype(np.int32)
        columns[f"{part}_dense"], columns[f"{part}_labels"] = dense.numpy(), labels.numpy()
    np.savez(path, allow_pickle=False, **columns)
    return data.reference


def read(path: Path) -> Log:
    """What `write` has written."""
    with np.load(path) as columns:
        parts = [
            tuple(columns[f"{part}_{column}"] for column in ("ids", "dense", "labels"))
            for part in ("train", "val", "test")
        ]
        return Log(tuple(map(int, columns["cardinalities"])), *parts)
