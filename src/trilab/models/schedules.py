"""Learning-rate schedules as factors of the peak rate, by the share of the training budget that is spent.

A schedule is a callable `progress -> factor` with progress in [0, 1]. The budget is whatever the field counts in
(optimiser steps, environment steps), so that one schedule means the same in each, and shortening a run shortens its
schedule with it.
"""

import math
from collections.abc import Callable

from trilab.ranges import Fraction, FractionBelowOne

Schedule = Callable[[float], float]


class Constant:
    """The peak rate throughout."""

    def __call__(self, progress: float) -> float:
        return 1.0


class Linear:
    """Linear warm-up over `warmup` of the budget, then a straight line down to `final` times the peak rate."""

    def __init__(self, warmup: FractionBelowOne = 0.0, final: Fraction = 0.0) -> None:
        self.warmup = warmup
        self.final = final

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        return 1.0 + (self.final - 1.0) * _share_after(self.warmup, progress)


class Cosine:
    """Linear warm-up, then half a cosine down to `final` times the peak rate.

    Loshchilov & Hutter 2017, SGDR, equation 5 with a single period (https://arxiv.org/abs/1608.03983).
    """

    def __init__(self, warmup: FractionBelowOne = 0.0, final: Fraction = 0.0) -> None:
        self.warmup = warmup
        self.final = final

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        half_wave = 0.5 * (1.0 + math.cos(math.pi * _share_after(self.warmup, progress)))
        return self.final + (1.0 - self.final) * half_wave


class Triangular:
    """A straight line up to the peak rate at `peak` of the budget, then a straight line down.

    Jordan 2024, section 3.1 (https://arxiv.org/abs/2404.00498), and long before it Smith 2017, Cyclical Learning Rates
    (https://arxiv.org/abs/1506.01186), of whose triangles this is one.
    """

    def __init__(self, start: Fraction = 0.2, peak: FractionBelowOne = 0.23, end: Fraction = 0.07) -> None:
        self.start = start
        self.peak = peak
        self.end = end

    def __call__(self, progress: float) -> float:
        if progress < self.peak:
            return self.start + (1.0 - self.start) * progress / self.peak
        return 1.0 + (self.end - 1.0) * _share_after(self.peak, progress)


def _share_after(warmup: float, progress: float) -> float:
    return min(1.0, (progress - warmup) / (1.0 - warmup))
