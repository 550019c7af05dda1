"""Where mixed precision helps, and where it hurts: time and memory of a training step by width and batch size.

Micikevicius et al. 2018, section 1 (https://arxiv.org/abs/1710.03740), promise speed from products in 16 bits, and half
the memory. Both are shares of a whole: casts, copies of weights and the bookkeeping of autocast cost something in
every step, and only products that are large enough pay for it.

A step is forward pass, loss, backward pass and fused Adam, of an MLP of three hidden layers, as wide as its inputs.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import psutil
import torch
from torch import nn
from torch.nn import functional as F

from trilab.errors import ConfigError
from trilab.precision import Name, Precision
from trilab.runtime import DeviceType, prepare_imports
from trilab.timing import (
    Loop,
    Quartiles,
    Unsupported,
    clock,
    interleave,
    paired_ratio,
    peak_memory_mb,
    quartiles,
    reset_peak_memory,
)

PRECISIONS: tuple[Name, ...] = ("fp32", "bf16-mixed", "16-mixed")
_CLASSES, _HIDDEN_LAYERS = 10, 3
#: Steps before the first window: kernels are chosen, Adam has its state.
_WARMUP = 3


@dataclass(frozen=True)
class Cell:
    """One width and batch size in one precision."""

    width: int
    batch: int
    precision: Name
    step_ms: Quartiles | Unsupported
    speedup: Quartiles | Unsupported  # against fp32: more than 1 is faster
    memory_mb: float | Unsupported  # MiB that training needs at most, over what the process had before


class Step:
    """One training step, again and again, on the same weights and batch in every precision.

    Args:
        width: of inputs and hidden layers.
        batch: rows.
        precision: that it asks for.
        device: to run on.

    Raises:
        ConfigError: the device does not run this precision as asked.
    """

    def __init__(self, width: int, batch: int, precision: Name, device: DeviceType) -> None:
        effective = Precision(precision).on(device)
        if effective.name != precision:
            raise ConfigError(f"{precision} runs as {effective.name} on {device}")
        self._plugin = effective.plugin
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers: list[nn.Module] = []
            for _ in range(_HIDDEN_LAYERS):
                layers += [nn.Linear(width, width), nn.ReLU()]
            self._network = nn.Sequential(*layers, nn.Linear(width, _CLASSES)).to(device)
        self._inputs = torch.randn(batch, width, generator=generator).to(device)
        self._labels = torch.randint(_CLASSES, (batch,), generator=generator).to(device)
        fused = device in ("cpu", "cuda")
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=1e-4, fused=fused)
        self._scaler = getattr(self._plugin, "scaler", None)

    def __call__(self) -> None:
        self._optimizer.zero_grad()
        with self._plugin.forward_context():
            outputs = self._network(self._inputs)
        loss = F.cross_entropy(outputs.float(), self._labels)
        if self._scaler is None:
            loss.backward()
            self._optimizer.step()
        else:
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()


def measure(
    widths: Sequence[int], batches: Sequence[int], device: DeviceType, windows: int = 7, window_s: float = 0.1
) -> Iterator[Cell]:
    """Every cell of the grid, one width after the other.

    Args:
        widths: of inputs and hidden layers.
        batches: rows of a batch.
        device: to run on.
        windows: of each arm; see `trilab.timing`.
        window_s: seconds that a window takes at least, in fp32.
    """
    for width in widths:
        for batch in batches:
            steps, missing = _steps(width, batch, device)
            count = _count(steps["fp32"], window_s, device)
            seconds = interleave([Loop(name, step, count, _WARMUP, device) for name, step in steps.items()], windows)
            for name in PRECISIONS:
                if name in missing:
                    yield Cell(width, batch, name, missing[name], missing[name], missing[name])
                    continue
                each = [1000 * value / count for value in seconds[name]]
                speedup = paired_ratio(seconds[name], seconds["fp32"])
                yield Cell(width, batch, name, quartiles(each), speedup, memory_mb(width, batch, name, device))


def _steps(width: int, batch: int, device: DeviceType) -> tuple[dict[Name, Step], dict[Name, Unsupported]]:
    steps: dict[Name, Step] = {}
    missing: dict[Name, Unsupported] = {}
    for name in PRECISIONS:
        try:
            steps[name] = Step(width, batch, name, device)
        except ConfigError as error:
            missing[name] = Unsupported(str(error))
    return steps, missing


def _count(step: Step, window_s: float, device: DeviceType) -> int:
    """Steps of a window."""
    for _ in range(_WARMUP):
        step()
    start, done = clock(device), 0
    while clock(device) - start < window_s:
        step()
        done += 1
    return done


def memory_mb(width: int, batch: int, precision: Name, device: DeviceType) -> float | Unsupported:
    """MiB at most in a few steps, over what there was before: of the allocator on CUDA, else of the resident set.

    The resident set is that of a process made for it, so that no memory that others have freed is used again.
    """
    if device == "cuda":
        return _grown(width, batch, precision, device)
    if device == "mps":
        return Unsupported("its memory is no part of the resident set")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=prepare_imports) as pool:
        settings = torch.get_num_threads(), torch.get_float32_matmul_precision()
        return pool.submit(_grown, width, batch, precision, device, settings).result()


def _grown(
    width: int, batch: int, precision: Name, device: DeviceType, settings: tuple[int, str] | None = None
) -> float:
    if settings is not None:
        torch.set_num_threads(settings[0])
        torch.set_float32_matmul_precision(settings[1])
    Step(64, 64, precision, device)()  # what the libraries load once
    before = torch.cuda.memory_allocated(device) if device == "cuda" else psutil.Process().memory_info().rss
    reset_peak_memory(device)
    step = Step(width, batch, precision, device)
    for _ in range(_WARMUP):
        step()
    return peak_memory_mb(device) - before / 2**20
