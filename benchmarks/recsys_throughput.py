"""Training speed of DeepFM, DLRM and NeuMF: trilab against DeepCTR-Torch, FuxiCTR, RecBole and plain PyTorch loops.

    python benchmarks/recsys_throughput.py [--repeats 3] [--models deepfm] [--floor] [--contenders-python PATH]
    python benchmarks/recsys_throughput.py --table-rows 1030000 10000000

DeepFM and DLRM train one epoch on a made-up click log (`recsys_data.py`): batch 4096, 13 dense and 26 categorical
fields with Criteo's sizes, capped so that the table has 1.03 million rows, ids by Zipf's law with exponent 1.1. NeuMF
trains on MovieLens 100K, where that lies in --movielens.

Every measurement is a process of its own; they take turns, forwards and backwards, so that a machine that slows down
slows all of them. trilab runs as a user runs it, `trilab train` with everything logged to MLflow, in a temporary
folder; the others log nothing. The rate is the steady one: from the end of the first step on, evaluation outside the
clock. The AUC is scikit-learn's, on the same test rows for all, after one epoch. With --table-rows: trilab's DeepFM
alone, with tables of these sizes.

The others are measured where they are installed, which may be an environment of its own (--contenders-python):
pip install -r benchmarks/requirements-recsys.txt
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import recsys_data
import recsys_trilab
from recsys_contenders import NEEDS
from recsys_tables import TITLES, Contender, Result, effective_matmul, table, table_of_sizes

T = TypeVar("T")
HERE = Path(__file__).parent
#: glibc's allocator and OpenMP as trilab sets them, for the loops that are to be as fast as we can make them.
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(2**28)}
TUNED["GOMP_SPINCOUNT"] = "3000"


class Bench:
    """Measures contenders, on data drawn once."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.log_path = folder / "log.npz"

    def draw(self) -> Mapping[str, float]:
        """Writes the click log; the AUC and log loss of the true probabilities."""
        options = self.options
        return aside(recsys_data.write, self.log_path, recsys_data.TABLE_ROWS, options.rows, options.test_rows)

    def measure(self, contender: Contender, seed: int) -> Result:
        """`samples_per_s`, `peak_mb`, and where it is known `auc`."""
        if contender.kind == "trilab":
            return self._trilab(contender, seed)
        options = self.options
        script, name = {
            "plain": ("recsys_neumf.py", "plain"),
            "recbole": ("recsys_neumf.py", "recbole"),
            "meta": ("recsys_loops.py", "dlrm"),
            "floor": ("recsys_loops.py", contender.optimizer),
        }.get(contender.kind, ("recsys_contenders.py", contender.kind))
        python = options.contenders_python if contender.kind in NEEDS else sys.executable
        command = [python, str(HERE / script), name, f"--seed={seed}", f"--threads={self._threads(contender)}"]
        command.append(f"--data={self._ratings() if contender.model == 'neumf' else self.log_path}")
        if contender.kind == "floor":
            command += [f"--precision={contender.precision}", f"--matmul={contender.matmul}"]
            command += [f"--table-lr={options.table_lr}"]
        if contender.model == "deepfm":
            command.append(f"--lr={options.lr}")
        spin = {"GOMP_SPINCOUNT": str(options.openmp_spin)} if options.openmp_spin is not None else {}
        with tempfile.TemporaryDirectory() as folder:
            output, peak = run(command, Path(folder), TUNED if contender.kind == "floor" else spin)
        return {**json.loads(output.splitlines()[-1]), "peak_mb": peak}

    def _trilab(self, contender: Contender, seed: int) -> Result:
        options = self.options
        choices = [
            f"seed={seed}",
            f"accelerator.threads={self._threads(contender)}",
            f"optimizer={contender.optimizer}",
        ]
        choices += [f"precision={contender.precision}", f"optimizer.lr={options.lr}"]
        choices += [f"accelerator.matmul_precision={contender.matmul}"]
        if contender.optimizer == "rowwise_adagrad":
            choices.append(f"optimizer.table_lr={options.table_lr}")
        if contender.table_rows:
            choices.append("~callbacks.checkpoint")  # nobody scores with it, and 10 million rows are 2 GB
        table_rows = contender.table_rows or recsys_data.TABLE_ROWS
        data = recsys_trilab.click_log(table_rows, options.rows, options.test_rows)
        if contender.model == "neumf":
            data = recsys_trilab.movielens(options.movielens)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _, peak = run([sys.executable, *recsys_trilab.command(contender.model, data, choices, folder)], folder, {})
            found = aside(recsys_trilab.logged, folder)
            result = {"samples_per_s": found["perf/train_samples_per_s"], "peak_mb": peak}
            result["step_ms"] = found["perf/step_ms"]
            if contender.model != "neumf" and not contender.table_rows:
                result["auc"] = aside(recsys_trilab.test_auc, folder, contender.model, self.log_path)
        return result

    def _threads(self, contender: Contender) -> int:
        return int(self.options.neumf_threads if contender.model == "neumf" else self.options.threads)

    def _ratings(self) -> Path:
        return Path(self.options.movielens) / "ml-100k" / "u.data"


def aside(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function in a process of its own: what this one holds counts in the peak memory of all that it starts."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[str, float]:
    """What a command prints, and the peak resident set in MiB of its process, workers of its own not counted."""
    with (folder / "stdout").open("w+") as stdout, (folder / "stderr").open("w+") as stderr:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{stdout.read()}{stderr.read()}")
        return stdout.read(), usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def contenders(options: argparse.Namespace, missing: set[str]) -> list[Contender]:
    """Those to be measured, a model at a time."""
    ways = [("fp32", "auto"), ("fp32", "highest"), ("bf16-mixed", "auto")]
    if options.precisions:
        ways = [way for way in ways if " ".join(way) in options.precisions or way[0] in options.precisions]
    found: list[Contender] = []
    if options.table_rows:
        every = [("deepfm", optimizer, *way) for optimizer in options.optimizers for way in ways]
        return [
            Contender(model, "trilab", optimizer, precision, matmul, rows)
            for model, optimizer, precision, matmul in every
            for rows in options.table_rows
        ]
    for model in options.models:
        others = {"deepfm": ["deepctr", "fuxictr"], "dlrm": ["meta"], "neumf": ["plain", "recbole"]}[model]
        found += [Contender(model, kind) for kind in others if kind not in missing]
        for optimizer in options.optimizers if model != "neumf" else ["adam"]:
            for precision, matmul in ways if model != "neumf" else [("fp32", "auto")]:
                own = Contender(model, "trilab", optimizer, precision, matmul)
                if options.floor and model == "deepfm":
                    found.append(replace(own, kind="floor", matmul=effective_matmul(matmul)))
                found.append(own)
    return found


def missing_contenders(python: str) -> set[str]:
    """Those that an interpreter has not installed."""
    code = f"import importlib.util as u; print(*[k for k, m in {NEEDS!r}.items() if u.find_spec(m) is None])"
    return set(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--models", nargs="+", choices=recsys_trilab.NETWORKS, default=list(recsys_trilab.NETWORKS))
    parser.add_argument("--optimizers", nargs="+", default=["lazy_adam", "rowwise_adagrad", "adam"], help="of trilab")
    parser.add_argument("--precisions", nargs="+", help="of trilab: fp32 or bf16-mixed; 'fp32 auto', 'fp32 highest'")
    parser.add_argument("--floor", action="store_true", help="also DeepFM's step in the barest loop")
    parser.add_argument("--table-rows", type=int, nargs="+", help="only trilab's DeepFM, with tables of these sizes")
    parser.add_argument("--rows", type=int, default=150 * recsys_data.BATCH, help="to train on")
    parser.add_argument("--test-rows", type=int, default=100_000)
    parser.add_argument("--lr", type=float, default=1e-3, help="of Adam, for all")
    parser.add_argument("--table-lr", type=float, default=0.02, help="of row-wise Adagrad")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's; default: all cores")
    parser.add_argument("--neumf-threads", type=int, default=1, help="torch's, of NeuMF")
    parser.add_argument("--openmp-spin", type=int, help="GOMP_SPINCOUNT of the others; default: the library's own")
    parser.add_argument("--contenders-python", default=sys.executable, help="interpreter that has the others installed")
    root = Path(os.environ.get("TRILAB_DATA_DIR", "data"))
    parser.add_argument("--movielens", type=Path, default=root, help="folder with ml-100k in it")
    options = parser.parse_args()
    options.movielens = options.movielens.absolute()
    return options


def main() -> None:
    options = parse()
    missing = missing_contenders(options.contenders_python)
    for kind in sorted(missing) if not options.table_rows else ():
        print(f"{TITLES[kind]}: not installed in {options.contenders_python}")
    if "neumf" in options.models and not (options.movielens / "ml-100k" / "u.data").exists():
        options.models.remove("neumf")
        print(f"NeuMF: left out, for there is no ml-100k/u.data in {options.movielens} (--movielens)")
    results: dict[Contender, list[Result]] = {contender: [] for contender in contenders(options, missing)}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, Path(name))
        reference = bench.draw() if set(options.models) != {"neumf"} and not options.table_rows else {}
        for turn in range(options.repeats):
            for contender in results if turn % 2 == 0 else reversed(results):
                result = bench.measure(contender, seed=turn + 1)
                results[contender].append(result)
                rate = f"{result['samples_per_s']:,.0f} samples/s"
                print(f"turn {turn + 1}: {contender.model}: {contender.title}: {rate}", flush=True)
    print(f"\n{os.cpu_count()} cores, {options.threads} torch threads (NeuMF {options.neumf_threads}); ", end="")
    print(f"{options.repeats} turns of {options.rows:,} rows")
    if options.table_rows:
        print(f"\n{table_of_sizes(results)}")
        return
    for metric, value in reference.items():
        print(f"{metric}: {value:.4f}")
    for model in options.models:
        print(f"\n### {model}\n\n{table({c: found for c, found in results.items() if c.model == model})}")


if __name__ == "__main__":
    main()
