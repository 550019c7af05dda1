"""What must happen before torch works well: allocator, threads, matmul setting, and torchvision beside a CPU torch.

Nothing heavy is imported at the top: a configuration that names an `Accelerator` is checked without torch.
"""

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import psutil

from trilab.errors import ConfigError
from trilab.ranges import NonNegativeInt, PositiveInt
from trilab.signals import shielded

DeviceType = Literal["cpu", "cuda", "mps"]

# mallopt's parameters (malloc.h) and glibc's own values for them.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_GLIBC_DEFAULTS = {_MMAP_MAX: 65_536, _TRIM_THRESHOLD: 128 * 1024, _TOP_PAD: 128 * 1024}
# Never give a block back to the system: convolutions otherwise fault their workspaces in again at every step.
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 256 * 1024 * 1024}

#: Threads that torch uses where `accelerator.threads` leaves it open: of several runs side by side, so many each.
THREADS = "TRILAB_THREADS"

#: The relative error up to which a faster product still counts as fp32: ten times that of an exact fp32 product.
_FP32_GRADE = 2.5e-6

_kept: list[Any] = []  # objects that must outlive their function: torch.library registrations


@dataclass(frozen=True)
class Accelerator:
    """Where a run computes and how the processor is set up for it.

    Args:
        name: the accelerator asked for; `auto` takes cuda, then mps, then cpu.
        threads: torch's threads on the CPU; None for all cores.
        openmp_spin: rounds that a torch thread waits busily for work before it sleeps. It is read when torch is
            imported, and an environment variable of OpenMP's own (GOMP_SPINCOUNT, OMP_WAIT_POLICY) goes before it.
        matmul_precision: torch's setting for fp32 matrix products; `auto` takes `medium` where a trial product shows
            that it is as exact as fp32 on this machine, and `highest` elsewhere.
        allocator: `keep` makes glibc hold on to freed memory; `default` leaves it alone. Without effect elsewhere.
        memory_format: layout of the model's 4-d weights.
    """

    name: Literal["auto", "cpu", "cuda", "mps"]
    threads: PositiveInt | None = None
    openmp_spin: NonNegativeInt = 3000
    matmul_precision: Literal["auto", "highest", "high", "medium"] = "auto"
    allocator: Literal["keep", "default"] = "keep"
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"

    def prepare(self, devices: int = 1) -> dict[str, str]:
        """Applies the settings to this process and returns those in effect, to be recorded with the run.

        Args:
            devices: of the run, with a process each, which share the cores.

        Raises:
            ConfigError: this machine does not have the accelerator, or not so many.
        """
        allocator = set_allocator(self.allocator)
        prepare_imports(self.openmp_spin)
        import torch

        torch.set_num_threads(self.threads or max(1, _all_threads() // devices))
        device = self.device()
        present = torch.cuda.device_count() if device == "cuda" else devices if device == "cpu" else 1
        if devices > present:
            raise ConfigError(
                f"trainer.devices={devices}: this machine has {present} of {device}. Choose at most {present}, or "
                "accelerator=cpu."
            )
        matmul = self.matmul_precision if self.matmul_precision != "auto" else best_matmul_precision(device)
        torch.set_float32_matmul_precision(matmul)
        return {
            "accelerator.requested": self.name,
            "accelerator.effective": device,
            "device.name": device_name(device),
            "runtime.threads": str(torch.get_num_threads()),
            "runtime.matmul_precision": matmul,
            "runtime.allocator": allocator,
            "runtime.memory_format": self.memory_format,
        }

    def device(self) -> DeviceType:
        """The accelerator that this machine really has for the name asked for."""
        present = available()
        if self.name == "auto":
            return present[0]
        if self.name not in present:
            raise ConfigError(
                f"accelerator={self.name}: this machine has none. It has: {', '.join(present)}. "
                "accelerator=auto takes the best there is."
            )
        return self.name

    @property
    def torch_memory_format(self) -> Any:
        """torch's constant for `memory_format`."""
        import torch

        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format


def available() -> list[DeviceType]:
    """The accelerators of this machine, the fastest first."""
    import torch

    present: list[DeviceType] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a missing or old driver; doctor says it better
        if torch.cuda.is_available():
            present.append("cuda")
    if torch.backends.mps.is_available():
        present.append("mps")
    return [*present, "cpu"]


def device_name(device: DeviceType) -> str:
    """The name that the maker gave the device: `NVIDIA H100`, `AMD EPYC`."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return _cpu_name()


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123 - a file of the kernel, not of the user
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def fast_imports() -> Iterator[None]:
    """Holds the garbage collector off while the heavy packages are imported: 3.1 s become 2.2 s.

    On a core of an AMD EPYC with AVX-512, without and with the `with` of this command:

        python -m timeit -n 1 -r 1 -s "import gc; gc.enable()" \\
            -s "from trilab.runtime import fast_imports, prepare_imports" \\
            "with fast_imports(): prepare_imports(); import pytorch_lightning, mlflow"

    Imports make a million objects that stay for good, and the collector walks over them again and again. At the end
    they are taken out of its sight, so that collections in training are short. Where torch is there already nothing is
    done: that was the greatest part, and there would be garbage among what is set aside.

    A signal waits for the end: an exception in the middle of torch's import can abort the process.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        with shielded():
            yield
    finally:
        gc.freeze()
        gc.enable()


def process_age_s() -> float:
    """Seconds since this process was started, before Python itself was loaded."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # not Linux
        return time.time() - psutil.Process().create_time()


def set_allocator(mode: Literal["keep", "default"]) -> str:
    """Sets glibc's allocator for this process; returns what is in effect (`system` where there is no glibc)."""
    if platform.libc_ver()[0] != "glibc":
        return "system"
    libc = ctypes.CDLL(None)
    for parameter, value in (_KEEP if mode == "keep" else _GLIBC_DEFAULTS).items():
        libc.mallopt(parameter, value)
    return mode


def prepare_imports(openmp_spin: int = 3000) -> None:
    """Makes torchvision, and with it Lightning, importable, and quietens what they print. Idempotent."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(openmp_spin))
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    import_torchvision()
    import_torchmetrics()
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # What `evaluate` wants of a checkpoint is its weights.
    warnings.filterwarnings("ignore", message="The dirpath has changed from.*")
    # Data may leave validation out: data.validation=none of MovieLens.
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero.*")
    # Metrics that are still waiting are sent at the epoch's end, so a short epoch loses none.
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    # Of several devices: what is reported is the same on each (`trilab.collectives`).
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    logging.getLogger("lightning_fabric.utilities.distributed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")


def import_torchvision() -> None:
    """Imports torchvision; beside a torch build that its binary was not made for, without its compiled operators.

    The registry's torchvision is a CUDA build. Beside a CPU-only torch its library does not load, and the import fails
    at the first operator that Python code refers to. Declaring the two operators' schemas is enough for data sets,
    transforms and models; nothing here calls them.
    """
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        importlib.import_module("torchvision")


def import_torchmetrics() -> None:
    """Imports torchmetrics, which Lightning is built on, without scipy.signal: most of what that takes.

    All it wants of scipy.signal is to see whether that has a window of an old name, which a metric of speech looks for.
    Whoever imports scipy.signal later gets the real one.
    """
    if "torchmetrics" in sys.modules or "scipy.signal" in sys.modules or importlib.util.find_spec("scipy") is None:
        return
    scipy: Any = importlib.import_module("scipy")
    asked: Any = ModuleType("scipy.signal")
    asked.__spec__, asked.hamming = ModuleSpec("scipy.signal", None), None
    sys.modules["scipy.signal"] = scipy.signal = asked
    try:
        importlib.import_module("torchmetrics")
    finally:
        del sys.modules["scipy.signal"], scipy.signal


def matmul_error(device: DeviceType, setting: str, size: int = 512) -> float:
    """Relative error (Frobenius norm) of an fp32 product of two normal matrices under a setting, against fp64."""
    import torch

    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, size, size, generator=generator)
    try:
        torch.set_float32_matmul_precision(setting)
        product = (a.to(device) @ b.to(device)).cpu().double()
    finally:
        torch.set_float32_matmul_precision(before)
    exact = a.double() @ b.double()
    return float((product - exact).norm() / exact.norm())


@cache
def best_matmul_precision(device: DeviceType) -> str:
    """The fastest setting under which this machine's fp32 products are still of fp32 grade; tried once a process."""
    # On some processors "medium" picks a faster kernel that is as exact as fp32; on others, and on GPUs, it truly
    # rounds to bf16 or TF32, and then a run called fp32 would not be one.
    return "medium" if matmul_error(device, "medium") < _FP32_GRADE else "highest"


def _all_threads() -> int:
    if (given := os.environ.get(THREADS, "")).isdigit() and int(given):
        return int(given)
    return cores()


def cores() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
