"""Training speed of three small image classifiers: trilab against two usual ways in PyTorch, Keras, and a bare loop.

    python benchmarks/vision_throughput.py [--networks mlp] [--precisions fp32] [--keras-python PATH] [--accuracy 3]
    python benchmarks/vision_throughput.py --accelerator cuda

MLP 784-128-10 and conv32-pool-conv64-pool-64-10 on MNIST, conv32-pool-conv64-pool-conv64-64-10 on CIFAR-10's shape,
batch 128, Adam at 1e-3. trilab runs as a user runs it: `trilab train`, everything logged to MLflow, all default
callbacks. The others (`vision_loops.py`, `vision_keras.py`) log nothing, except the template what its kind logs.

The protocol is that of `trilab.timing`. Every contender is a process that has trained a whole epoch before its first
window and sleeps while others have theirs; windows are stretches of training steps, the same numbers for all, that take
turns. Where the contenders are ours or PyTorch's, weights and batches are the same, which the first loss shows. A
process's peak memory does not count the data loader's workers.

With --accuracy the test accuracy after so many epochs is beside the speed, over --seeds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import vision_data
import vision_trilab
from vision_data import Pictures
from vision_gate import Worker
from vision_tables import Cell, Contender, aims, same_start, table

from trilab.timing import MIN_WINDOWS, Unsupported, interleave

HERE = Path(__file__).parent
#: Torch threads of trilab and of the bare loop; None for all cores. The others have their libraries' own defaults.
THREADS = {"mlp": 1, "mnist_cnn": None, "cifar_cnn": None}
#: Steps of a window: half a second of the slowest contender at least.
STEPS = {"mlp": 400, "mnist_cnn": 80, "cifar_cnn": 50}
#: trilab's data for images of CIFAR-10's shape; what is on them does not matter for the speed.
FOLDER, MADE_UP = "vision/cifar10_folder", "vision/fake,data.train_images=50000,data.test_images=10000,data.noise=1"
#: What trilab sets before torch is imported, for the bare loop too.
OPENMP_SPIN = {"GOMP_SPINCOUNT": "3000"}


class Bench:
    """Measures one network in one precision."""

    def __init__(self, options: argparse.Namespace, network: str, precision: str, folder: Path) -> None:
        self.options, self.network, self.precision, self.folder = options, network, precision, folder
        self.threads = options.threads or THREADS[network]
        data = options.mnist if network != "cifar_cnn" else options.cifar
        choice, *self.data = data.split(",")
        vision_data.write_experiment(folder / "conf", vision_trilab.MODELS[network], choice)

    def settings(self, seed: int) -> list[str]:
        """Overrides of trilab."""
        machine = [f"accelerator={self.options.accelerator}", f"accelerator.threads={self.threads or 'null'}"]
        return [f"precision={self.precision}", f"seed={seed}", *machine, *self.data]

    def prepare(self, seed: int) -> dict[str, str]:
        """Writes data and weights; the machine's settings."""
        command = [sys.executable, str(HERE / "vision_data.py"), str(self.folder), *self.settings(seed)]
        return dict(json.loads(_output(command, self.folder).splitlines()[-1]))

    def measure(self, contenders: Sequence[Contender]) -> Cell:
        options, steps = self.options, self.options.steps or STEPS[self.network]
        rows = len(Pictures.read(self.folder).train)
        warmup = options.warmup or -(-rows // vision_data.BATCH)
        workers: dict[Contender, Worker] = {}
        unsupported: dict[Contender, Unsupported] = {}
        losses: dict[Contender, float] = {}
        try:
            for contender in contenders:
                if contender.kind == "keras" and not _has(options.keras_python, "tensorflow"):
                    unsupported[contender] = Unsupported("tensorflow is not installed")
                    continue
                worker = self._start(contender, warmup, steps, number=len(workers))
                workers[contender] = worker
                start = time.perf_counter()
                ready = worker.ready()
                if "unsupported" in ready:
                    workers.pop(contender).close()
                    unsupported[contender] = Unsupported(ready["unsupported"])
                    continue
                print(f"  {contender.title}: ready after {time.perf_counter() - start:.0f} s", flush=True)
                if ready["loss"] is not None:
                    losses[contender] = float(ready["loss"])
            seconds = interleave(list(workers.values()), options.windows)
        finally:
            for worker in workers.values():
                worker.close()
        print(f"  {same_start(losses, tolerance=1e-4 if self.precision == 'fp32' else 0.01)}", flush=True)
        first = [warmup + turn * steps for turn in range(options.windows)]
        return Cell(
            self.network,
            self.precision,
            steps,
            [vision_data.images_between(step, step + steps, rows) for step in first],
            {contender: seconds[worker.name] for contender, worker in workers.items()},
            {contender: worker.peak_mb for contender, worker in workers.items()},
            unsupported,
        )

    def _start(self, contender: Contender, warmup: int, steps: int, number: int) -> Worker:
        folder = self.folder / f"{number}_{contender.kind}"
        pipes = ["--requests={requests}", "--replies={replies}", f"--warmup={warmup}", f"--steps={steps}"]
        if contender.kind == "trilab":
            choices = [*self.settings(self.options.seeds[0]), *vision_trilab.in_windows(warmup, steps)]
            command = [sys.executable, *vision_trilab.command(self.folder / "conf", folder, choices)]
        else:
            command = [*self._command(contender, self.options.seeds[0]), *pipes]
        return Worker(contender.title, command, folder, self._environment(contender))

    def _command(self, contender: Contender, seed: int) -> list[str]:
        """Of one that is not trilab."""
        common = [f"--folder={self.folder}", f"--network={self.network}", f"--precision={self.precision}"]
        common += [f"--accelerator={self.options.accelerator}", f"--seed={seed}"]
        threads = self.threads if contender.kind == "bare" else self.options.threads
        common += [f"--threads={threads}"] if threads else []
        if contender.kind == "keras":
            execution = f"--steps-per-execution={contender.steps_per_execution}"
            return [self.options.keras_python, str(HERE / "vision_keras.py"), *common, execution]
        loader = [f"--workers={contender.workers or 0}", f"--allocator={contender.allocator}"]
        return [sys.executable, str(HERE / "vision_loops.py"), contender.kind, *common, *loader]

    def _environment(self, contender: Contender) -> Mapping[str, str]:
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))  # for vision_windows
        spin = self.options.openmp_spin
        others = {"GOMP_SPINCOUNT": str(spin)} if spin is not None else {}
        own = {"trilab": {}, "bare": OPENMP_SPIN}.get(contender.kind, others)
        return {"PYTHONPATH": path, **own}

    def accuracies(self, contender: Contender) -> list[float]:
        """Of each seed, after `--accuracy` epochs."""
        found, epochs = [], self.options.accuracy
        for seed in self.options.seeds:
            self.prepare(seed)
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                if contender.kind == "trilab":
                    choices = [*self.settings(seed), *vision_trilab.for_epochs(epochs)]
                    command = [sys.executable, *vision_trilab.command(self.folder / "conf", folder, choices)]
                    _output(command, folder, self._environment(contender))
                    found.append(vision_trilab.test_accuracy(folder))
                else:
                    command = [*self._command(contender, seed), f"--epochs={epochs}"]
                    output = _output(command, folder, self._environment(contender))
                    found.append(float(json.loads(output.splitlines()[-1])["accuracy"]))
        return found


def _output(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _has(python: str, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def contenders(options: argparse.Namespace) -> list[Contender]:
    found = [Contender("trilab"), Contender("bare")]
    found += [Contender("plain", workers) for workers in options.workers]
    found.append(Contender("plain", options.workers[-1], allocator="keep"))
    found += [Contender("template", workers) for workers in options.workers]
    found += [Contender("keras", steps_per_execution=steps) for steps in options.steps_per_execution]
    return [contender for contender in found if contender.kind in ["trilab", *options.against]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=THREADS, default=list(THREADS))
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16-mixed"), default=["fp32", "bf16-mixed"])
    kinds = ("bare", "plain", "template", "keras")
    parser.add_argument("--against", nargs="+", choices=kinds, default=list(kinds))
    parser.add_argument("--windows", type=int, default=7, help="of each contender")
    parser.add_argument("--steps", type=int, help=f"of a window; default: {STEPS}")
    parser.add_argument("--warmup", type=int, help="steps before the first window; default: an epoch")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the data loaders; the better counts")
    parser.add_argument("--accelerator", choices=("cpu", "cuda", "mps"), default="cpu")
    parser.add_argument("--threads", type=int, help=f"of all contenders; default: {THREADS}, the others' own defaults")
    parser.add_argument("--openmp-spin", type=int, help="GOMP_SPINCOUNT of the others; default: the library's own")
    parser.add_argument("--keras-python", default=sys.executable, help="interpreter that has TensorFlow installed")
    parser.add_argument("--steps-per-execution", type=int, nargs="+", default=[1], help="Keras's; the best counts")
    parser.add_argument(
        "--accuracy", type=int, help="epochs after which the test accuracy is taken; default: not taken"
    )
    trainable = ("trilab", "bare", "plain", "keras")
    parser.add_argument("--accuracy-of", nargs="+", choices=trainable, default=["trilab", "bare"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the accuracy; the speed has one")
    parser.add_argument("--mnist", default="vision/mnist", help="trilab's data option, overrides after commas")
    parser.add_argument("--cifar", help=f"likewise, 3x32x32; default: {FOLDER}, or where that is not at hand {MADE_UP}")
    options = parser.parse_args()
    if options.windows < MIN_WINDOWS:
        parser.error(f"--windows {options.windows}: at least {MIN_WINDOWS}, or the spread says nothing")
    if options.accuracy and len(options.seeds) < 3:
        parser.error(f"--seeds {' '.join(map(str, options.seeds))}: an accuracy is of at least 3 seeds")
    root = Path(os.environ.get("TRILAB_DATA_DIR", "data")).absolute()
    os.environ["TRILAB_DATA_DIR"] = str(root)  # the contenders run in folders of their own
    options.cifar = options.cifar or (FOLDER if (root / "cifar10-images").is_dir() else MADE_UP)
    return options


def main() -> None:
    options = parse()
    cells: list[Cell] = []
    for network in options.networks:
        for precision in options.precisions:
            print(f"{network}, {precision}", flush=True)
            with tempfile.TemporaryDirectory() as name:
                bench = Bench(options, network, precision, Path(name))
                settings = bench.prepare(options.seeds[0])
                cell = bench.measure(contenders(options))
                for contender in cell.seconds if options.accuracy else ():
                    if contender.kind in options.accuracy_of and contender.allocator == "default":
                        cell.accuracy[contender] = bench.accuracies(contender)
            cells.append(cell)
            print("  " + "; ".join(f"{key} {value}" for key, value in settings.items()))
            for contender, reason in cell.unsupported.items():
                print(f"  {contender.title}: unsupported: {reason.reason}")
            print(f"\n### {network}, {precision}\n\n{table(cell)}\n", flush=True)
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{options.windows} windows of each; {os.cpu_count()} cores{load}\n\n{aims(cells)}")


if __name__ == "__main__":
    main()
