"""What it costs that a run counts non-finite gradients: steps of fused Adam with the check and without, in turns.

    python benchmarks/gradient_check.py [--turns 15] [--steps 1000]

Prints for two networks the microseconds of a bare step, those that the check adds, and the ratio of the two kinds of
steps: medians over the turns. One torch thread.
"""

import argparse
import time
from itertools import pairwise
from statistics import median

from trilab.runtime import prepare_imports

prepare_imports()

import torch  # noqa: E402
from torch import nn  # noqa: E402

from trilab.callbacks.precision import GradientCheck  # noqa: E402

NETWORKS = {"MLP of MNIST": (784, 128, 10), "Q-network of CartPole": (4, 120, 84, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | step, us | added by the check, us | ratio |")
    print("| --- | --- | --- | --- |")
    for name, widths in NETWORKS.items():
        watched, plain = optimizer(widths), optimizer(widths)
        GradientCheck(torch.device("cpu")).watch(watched)
        turns = [(step_us(plain, options.steps), step_us(watched, options.steps)) for _ in range(options.turns)]
        bare, added = median(one for one, _ in turns), median(two - one for one, two in turns)
        print(f"| {name} | {bare:.1f} | {added:.1f} | {median(two / one for one, two in turns):.2f} |")


def optimizer(widths: tuple[int, ...]) -> torch.optim.Optimizer:
    """Fused Adam of an MLP, with gradients."""
    layers = nn.Sequential(*(nn.Linear(before, after) for before, after in pairwise(widths)))
    for weight in layers.parameters():
        weight.grad = torch.randn_like(weight)
    return torch.optim.Adam(layers.parameters(), fused=True)


def step_us(own: torch.optim.Optimizer, steps: int) -> float:
    """Microseconds of a step, the mean of so many."""
    start = time.perf_counter()
    for _ in range(steps):
        own.step()
    return 1e6 * (time.perf_counter() - start) / steps


if __name__ == "__main__":
    main()
