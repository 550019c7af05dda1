"""Twenty short runs: one sweep in one process against as many processes, one after the other.

    python benchmarks/sweep_launch.py [--runs 20] [--launcher basic]

Prints the seconds of `trilab train -m seed=1,2,...` and of a `python -m trilab train seed=K` for each K, each from the
start of the first process to the end of the last, on a store of its own that exists before.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = [
    "experiment=recsys/deepfm_synthetic",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=20",
    "trainer.limit_val_batches=1",
    "data.train_rows=20000",
    "data.val_rows=2000",
    "data.test_rows=2000",
    "accelerator.threads=1",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--launcher", default="basic")
    options = parser.parse_args()
    seeds = [str(seed) for seed in range(1, options.runs + 1)]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        seconds(home, ["seed=0"])  # makes the store, and fills the system's cache of files
        sweep = seconds(home, ["-m", f"seed={','.join(seeds)}", f"hydra/launcher={options.launcher}"])
        apart = sum(seconds(home, [f"seed={seed}"]) for seed in seeds)
    print(f"{options.runs} runs, hydra/launcher={options.launcher}: {sweep:.1f} s ({sweep / options.runs:.2f} s a run)")
    print(f"{options.runs} processes, one after the other: {apart:.1f} s ({apart / options.runs:.2f} s a run)")
    print(f"ratio: {apart / sweep:.1f}")


def seconds(folder: Path, arguments: list[str]) -> float:
    """Of one command; raises where it fails."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "trilab", "train", *arguments, *RUN],
        cwd=folder,
        env={**os.environ, "TRILAB_SPOOL": str(folder / "spool")},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
