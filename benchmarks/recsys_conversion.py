"""What it costs to convert a table of clicks and to read it in training order, in seconds and in memory, by its size.

    python benchmarks/recsys_conversion.py [ROWS ...] [--memory-limit-mb 2000] [--folder DIR]

For each number of rows (default: 1 and 10 million; the latter needs 5 GB of disk, freed at the end): made-up rows in
Criteo's raw format (a label, 13 counts with gaps, 26 columns of hexadecimal texts whose numbers of values are those of
Criteo's set and whose frequencies follow Zipf's law) are written, converted (`data=recsys/criteo`), and read once in
training order in batches of 4096: from disk (`in_memory=false`) and from memory. Each of these is a process of its own;
its peak of resident memory is the system's figure, which counts the imports too (first row).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: Distinct values of C1 to C26 in Criteo's set of 2014.
CARDINALITIES = [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306,
                 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572]  # fmt: skip
ROWS_AT_ONCE = 250_000


def make(path: Path, rows: int) -> None:
    """Writes the made-up file."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv

    rng = np.random.default_rng(0)
    ranks = [np.cumsum(np.arange(1, count + 1, dtype=np.float64) ** -1.1) for count in CARDINALITIES]
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file:
        for start in range(0, rows, ROWS_AT_ONCE):
            n = min(ROWS_AT_ONCE, rows - start)
            logit, columns = np.full(n, -1.5), {}
            for d in range(13):
                counts = np.floor(rng.lognormal(2, 2, n)).astype(np.int64) - 2
                columns[f"I{d}"] = pa.array(counts, mask=rng.random(n) < 0.2)
            for field, cumulative in enumerate(ranks):
                ids = np.minimum(np.searchsorted(cumulative, rng.random(n) * cumulative[-1]), len(cumulative) - 1)
                logit += 0.4 * np.sin(ids * 12.9898 + field)
                hashed = (ids.astype(np.uint64) * 2654435761 + field * 97) % 2**32  # a bijection of 32 bits
                digits = pa.py_buffer(hashed.astype(">u4").tobytes().hex().encode())
                text = pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), n, [None, digits]).cast(pa.binary())
                gaps = rng.random(n) < (0.04 if field in (2, 3, 11, 15, 20, 23) else 0)
                columns[f"C{field}"] = pc.if_else(pa.array(gaps), pa.scalar(None, pa.string()), text.cast(pa.string()))
            label = pa.array((rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int8))
            pa.csv.write_csv(pa.table({"label": label, **columns}), file, options)


def table(path: Path, in_memory: bool, memory_limit_mb: int) -> Any:
    """The data module of `data=recsys/criteo` for that file."""
    from trilab.runtime import prepare_imports

    prepare_imports()
    import torch

    from trilab.config.compose import option_alone
    from trilab.config.job import build

    torch.set_num_threads(1)
    overrides = ["seed=1", f"data.train_path={path}", f"data.cache={path.parent / 'cache'}"]
    overrides += [f"data.in_memory={in_memory}", f"data.memory_limit_mb={memory_limit_mb}"]
    return build(option_alone("data", "recsys/criteo", overrides))


def stage(name: str, path: Path, rows: int, memory_limit_mb: int) -> dict[str, float]:
    """Seconds, rows and peak of resident memory of one of the things measured, in this process."""
    if name == "make":
        make(path, rows)
        return {}
    data = table(path, name == "read from memory", memory_limit_mb)
    start = time.perf_counter()
    if name == "convert":
        data.prepare_data()
    elif name != "imports":
        data.setup("fit")
        start = time.perf_counter()
        rows = sum(len(labels) for _, _, labels in data.train_dataloader())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": time.perf_counter() - start, "rows": rows, "peak_mb": peak / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--memory-limit-mb", type=int, default=2000, help="of DuckDB, as data.memory_limit_mb")
    parser.add_argument("--folder", type=Path, default=None, help="for the files; default: a temporary one")
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        name, path = options.stage
        print(json.dumps(stage(name, Path(path), options.rows[0], options.memory_limit_mb)))
        return
    print("| rows | raw | what | seconds | rows/s | peak memory |\n| --- | --- | --- | --- | --- | --- |")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "train.txt"
            for name in ("make", "imports", "convert", "read from disk", "read from memory"):
                command = [sys.executable, __file__, str(rows), "--stage", name, str(path)]
                command.append(f"--memory-limit-mb={options.memory_limit_mb}")
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{name}: exit code {done.returncode}\n{done.stderr}")
                if found := json.loads(done.stdout.splitlines()[-1]):
                    rate = f"{found['rows'] / found['seconds']:,.0f}" if name != "imports" else ""
                    seconds = f"{found['seconds']:.1f}" if name != "imports" else ""
                    cells = [f"{rows:,}", f"{path.stat().st_size / 1e9:.2f} GB", name, seconds, rate]
                    print(f"| {' | '.join(cells)} | {found['peak_mb']:,.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
