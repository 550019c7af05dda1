"""The one protocol of every timing that trilab reports.

What is compared runs in one session as *arms*. An arm does its own warm-up, at least a first epoch, and then one window
of work whenever it is asked; the device is synchronised before each reading of the clock. Evaluation, checkpoints and
the sending of logs are outside the windows; whatever a step costs in a real run is inside.

Windows of all arms take turns, A B C C B A A B C ..., so that a machine that grows slower or busier does so for all of
them. At least `MIN_WINDOWS` of each, reported as median and quartiles; a speed-up is the median of the ratios of those
windows that belong to the same turn, not the ratio of two medians. A cell of a table that cannot run is `Unsupported`,
and is never filled with what was measured in another type.

Arms of one comparison start from the same weights and see the same batches in the same order, as far as they are ours.
"""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from trilab.errors import UserError

if TYPE_CHECKING:
    import torch

#: Fewer say nothing about the spread.
MIN_WINDOWS = 5

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: Bytes, never written. glibc maps a block of more than 32 MiB from the system, unless it may map none or has as much
#: free, and where it gives memory back it keeps 64 MiB at most.
_LARGE = 2**27
_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy")


class Arm(Protocol):
    """One of the things that are compared."""

    @property
    def name(self) -> str: ...

    def window(self) -> float:
        """Runs one window of work, warm-up already done, and returns the seconds it took."""
        ...


@dataclass(frozen=True)
class Unsupported:
    """A cell of a table that cannot run."""

    reason: str

    def __str__(self) -> str:
        return "unsupported"


class Quartiles(NamedTuple):
    """The middle of some windows, and the ends of their interquartile range."""

    median: float
    low: float  # 25% of the values are below
    high: float  # 75% of the values are below

    def scaled(self, factor: float) -> "Quartiles":
        """In another unit."""
        return Quartiles(*(factor * value for value in self))

    def rate(self, work: float) -> "Quartiles":
        """Of seconds by window: `work` of a window by the second."""
        return Quartiles(work / self.median, work / self.high, work / self.low)


class Loop:
    """An arm in this process: a window is some calls of a step.

    Args:
        name: of the arm.
        step: one training step, its batch included.
        steps: of a window.
        warmup: steps before the first window: a first epoch of the data, or more.
        device: that the steps run on.
    """

    def __init__(
        self, name: str, step: Callable[[], object], steps: int, warmup: int, device: "torch.device | str" = "cpu"
    ) -> None:
        self.name = name
        self._step, self._steps, self._device = step, steps, device
        self._warmup = warmup

    def window(self) -> float:
        for _ in range(self._warmup):
            self._step()
        self._warmup = 0
        start = clock(self._device)
        for _ in range(self._steps):
            self._step()
        return clock(self._device) - start


def interleave(arms: Sequence[Arm], windows: int) -> dict[str, list[float]]:
    """Seconds of each arm's windows, by its name; element i of all lists is of the same turn.

    Args:
        arms: one window each in every turn, forwards and backwards in alternation.
        windows: of each arm.

    Raises:
        UserError: too few windows.
    """
    if windows < MIN_WINDOWS:
        raise UserError(f"{windows} windows are too few to tell a spread from chance. Measure at least {MIN_WINDOWS}.")
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    if len(seconds) < len(arms):
        raise ValueError(f"arms of the same name: {[arm.name for arm in arms]}")
    for turn in range(windows):
        for arm in arms if turn % 2 == 0 else reversed(arms):
            seconds[arm.name].append(arm.window())
    return seconds


def quartiles(values: Sequence[float]) -> Quartiles:
    """Of the values of at least `MIN_WINDOWS` windows; between two values by linear interpolation."""
    if len(values) < MIN_WINDOWS:
        raise ValueError(f"{len(values)} windows; at least {MIN_WINDOWS} are needed")
    low, median, high = np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75))
    return Quartiles(float(median), float(low), float(high))


def paired_ratio(values: Sequence[float], baseline: Sequence[float]) -> Quartiles:
    """How many times as fast as a baseline: of baseline_i / values_i over the turns i, both in seconds."""
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} and {len(baseline)} windows are no pairs")
    return quartiles([base / value for value, base in zip(values, baseline, strict=True)])


def synchronize(device: "torch.device | str") -> None:
    """Waits until the device has done all that it was given."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


def clock(device: "torch.device | str") -> float:
    """Seconds, read when the device has nothing left to do."""
    synchronize(device)
    return time.perf_counter()


def reset_peak_memory(device: "torch.device | str") -> None:
    """Lets `peak_memory_mb` count from here. Where the system does not allow it, it counts from the process's start."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # Linux: the peak resident set begins at the present one


def peak_memory_mb(device: "torch.device | str") -> float:
    """MiB since `reset_peak_memory`: of the allocator on CUDA, else the peak resident set of the process."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
        return peak / (2**20 if sys.platform == "darwin" else 1024)


def machine_settings(device: "torch.device | str" = "cpu", memory_format: str = "of each arm") -> dict[str, str]:
    """What the timings of this process depend on: the machine, versions, and the settings in effect now.

    Args:
        device: that the arms run on.
        memory_format: layout of the arms' 4-d weights, which no setting of the process tells.
    """
    import torch

    from trilab.runtime import device_name

    kind = torch.device(device).type
    assert kind in ("cpu", "cuda", "mps")
    settings = {
        "machine": device_name(kind),  # type: ignore[arg-type]
        "device": kind,
        "cores": str(os.cpu_count()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **_versions(_PACKAGES),
        "threads": str(torch.get_num_threads()),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "memory_format": memory_format,
        "allocator": allocator(),
    }
    if kind == "cuda":
        settings["cuda"] = str(torch.version.cuda)
        settings["cudnn"] = str(torch.backends.cudnn.version())
    return settings


def allocator() -> str:
    """What this process does with large blocks of memory that are freed.

    `keep`: it holds on to them (`trilab.runtime.set_allocator`); `default`: glibc gives them back to the system;
    `system`: there is no glibc; else the library that was loaded in its place. Found by trial, not looked up.
    """
    if preloaded := os.environ.get("LD_PRELOAD"):
        return Path(preloaded.replace(":", " ").split()[-1]).name
    if platform.libc_ver()[0] != "glibc":
        return "system"
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.mallinfo.restype = _MallInfo
    before = libc.mallinfo().hblks
    block = libc.malloc(_LARGE)
    mapped = libc.mallinfo().hblks > before
    libc.free(block)
    return "default" if mapped else "keep"


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo (malloc.h)."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    ]  # fmt: skip


def _versions(packages: Sequence[str]) -> Mapping[str, str]:
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
