"""What trilab costs before and between the batches: a run's way to its first batch, and each run of a sweep.

    python benchmarks/startup.py [--runs 20] [--repeats 3]

Two comparisons, each against a named baseline measured in turn with it:

- a one-step run from the shell to its end, against a process that only imports torch, pytorch-lightning and mlflow;
- a run inside a sweep of `--runs` one-step runs in one process, against a one-step run in a process of its own.

Everything happens in a temporary folder with a store that the first, uncounted run has made.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ONE_STEP = [
    "experiment=recsys/deepfm_synthetic",
    "data.train_rows=5000",
    "data.val_rows=1000",
    "data.test_rows=1000",
    "trainer.max_steps=1",
    "accelerator=cpu",
]
IMPORTS = "import torch, pytorch_lightning, mlflow"


def seconds(folder: Path, *command: str) -> float:
    """Wall time of a command, which has to succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def first_batch(folder: Path) -> float:
    """Seconds from the newest run's process start to the end of its first batch, as the run itself has logged it."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == "recsys/deepfm_synthetic"]
    [run] = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)
    return float(run.data.metrics["perf/first_batch_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="runs of the sweep")
    parser.add_argument("--repeats", type=int, default=3, help="times that everything is measured, in turn")
    options = parser.parse_args()
    trilab = [sys.executable, "-m", "trilab", "train", *ONE_STEP]
    # torchvision has to be imported first where it was built for another torch; see trilab.runtime.
    imports = [sys.executable, "-c", f"from trilab.runtime import prepare_imports; prepare_imports(); {IMPORTS}"]
    single, bare, sweep, batch = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds(folder, *trilab)
        for _ in range(options.repeats):
            bare.append(seconds(folder, *imports))
            single.append(seconds(folder, *trilab))
            batch.append(first_batch(folder))
            sweep.append(seconds(folder, *trilab, "-m", f"seed=range({options.runs})"))
    per_run = [(whole - one) / (options.runs - 1) for whole, one in zip(sweep, single, strict=True)]
    print(f"{os.cpu_count()} cores; medians of {options.repeats}")
    print(f"start to first batch           {statistics.median(batch):6.2f} s")
    print(f"one-step run, whole process    {statistics.median(single):6.2f} s")
    print(f"imports alone (baseline)       {statistics.median(bare):6.2f} s")
    ratios = [one / base for one, base in zip(single, bare, strict=True)]
    print(f"  run / imports                {statistics.median(ratios):6.2f}")
    print(f"each further run of a sweep    {statistics.median(per_run):6.2f} s")
    ratios = [one / further for one, further in zip(single, per_run, strict=True)]
    print(f"  process of its own / sweep   {statistics.median(ratios):6.1f}")


if __name__ == "__main__":
    main()
