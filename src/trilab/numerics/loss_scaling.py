"""A loss scale that finds its own size: torch's GradScaler, step by step.

Micikevicius et al. 2018, section 3.2 (https://arxiv.org/abs/1710.03740), ask for a scale as large as it can be without
overflow, and to leave out a step that did overflow. torch's scaler halves the scale after such a step, and doubles it
after `growth_interval` (2,000) steps in a row without one.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from trilab.precision import CountingGradScaler


@dataclass
class Trace:
    """What became of every step."""

    scales: list[float] = field(default_factory=list)  # before each step, and after the last
    skipped: list[int] = field(default_factory=list)  # steps whose gradients overflowed, from 0
    weights: list[float] = field(default_factory=list)  # of a single weight, after each step


def scripted(overflows: Collection[int], steps: int, init_scale: float = 65536.0, growth_interval: int = 2000) -> Trace:
    """A scaler's steps on one weight whose gradient is 1, or infinite where it is told so.

    Args:
        overflows: the steps whose gradient is infinite, from 0.
        steps: how many.
        init_scale: first loss scale.
        growth_interval: steps without overflow before the scale doubles.
    """
    weight = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = CountingGradScaler("cpu", init_scale=init_scale, growth_interval=growth_interval)
    trace = Trace()
    for step in range(steps):
        factor = float("inf") if step in overflows else 1.0
        _step(trace, scaler, optimizer, weight * factor)
        trace.weights.append(weight.item())
    trace.scales.append(scaler.get_scale())
    return trace


def trained(steps: int, init_scale: float, growth_interval: int = 2000, seed: int = 0) -> Trace:
    """A scaler's steps in the training of a small regression network, in real float16 on the CPU.

    Args:
        steps: how many.
        init_scale: first loss scale; one that is too large comes down by itself.
        growth_interval: steps without overflow before the scale doubles.
        seed: of weights and data.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    scaler = CountingGradScaler("cpu", init_scale=init_scale, growth_interval=growth_interval)
    direction = torch.randn(8, 1, generator=generator)
    trace = Trace()
    for _ in range(steps):
        inputs = torch.randn(64, 8, generator=generator)
        with torch.autocast("cpu", torch.float16):
            outputs = network(inputs)
        _step(trace, scaler, optimizer, F.mse_loss(outputs.float(), torch.sin(inputs @ direction)))
    trace.scales.append(scaler.get_scale())
    return trace


def _step(trace: Trace, scaler: CountingGradScaler, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    trace.scales.append(scaler.get_scale())
    before = scaler.skipped_steps
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    if scaler.skipped_steps > before:
        trace.skipped.append(len(trace.scales) - 1)
