"""What the runs of a group say against those of the baseline, as numbers and in plain words.

The interval of a difference, 95%: of fewer than ten pairs Student's t on their differences, or Welch's t where the runs
are not pairs, for a bootstrap of so few is far too narrow (`trilab.statistics` has the measured coverage); of ten and
more the percentile bootstrap over seeds, of interquartile means for agents (Agarwal et al. 2021,
https://arxiv.org/abs/2108.13264), else of means.

- **too few seeds to tell**: fewer than three pairs (three runs in each group, where they are no pairs), or none of the
  following.
- **better**, **worse**: the interval leaves out zero.
- **no measurable loss**: it holds zero, and its worse end is a loss of less than `margin` times the baseline's mean. 1%
  is what MLPerf's inference benchmark lets a lower precision lose (Reddi et al. 2020, https://arxiv.org/abs/1911.02549).
- **the same**: every pair is equal, bit by bit.

With fewer than six pairs, better and worse rest on differences being about normal: a test that only swaps the signs of
n differences cannot go below p = 2 / 2^n, 0.25 with three of them and 0.06 with five.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trilab.statistics import Interval, Statistic, difference, interquartile_mean, t_difference, t_ratio

#: Runs of each group below which nothing is said, and from which the bootstrap is wide enough.
FEWEST, BOOTSTRAP_FROM = 3, 10
#: A ratio of times whose interval lies within this of 1 is no difference.
_AS_FAST = 1.1

Finding = Literal["better", "worse", "no measurable loss", "the same", "too few seeds to tell", "different"]
#: Values by what makes a pair: the seed, and settings that are not compared.
Values = Mapping[Hashable, float]


@dataclass(frozen=True)
class Against:
    """A group against its baseline.

    Args:
        baseline: its name.
        difference: of the group's mean, or interquartile mean, less the baseline's.
        ratio: of the geometric means; None where a value is not positive.
        share: the difference as a share of the baseline's mean; NaN where that is zero.
        runs: pairs, or the runs of both groups.
        paired: by seed.
        method: of the interval: t or bootstrap.
        finding: what that means.
        time: baseline's seconds of a fit by the group's, so that more is faster; None where they were not logged.
    """

    baseline: str
    difference: Interval
    ratio: Interval | None
    share: float
    runs: tuple[int, ...]
    paired: bool
    method: Literal["t", "bootstrap"]
    finding: Finding
    time: Interval | None = None

    @property
    def counted(self) -> str:
        """`5 pairs`, or `5 and 4 runs, no pairs`."""
        if self.paired:
            return f"{self.runs[0]} pair{'s' * (self.runs[0] > 1)}"
        return f"{self.runs[0]} and {self.runs[1]} runs, no pairs"


def against(
    baseline: str, own: Values, base: Values, mode: str, margin: float, agents: bool, time: Interval | None
) -> Against:
    """Holds a group against its baseline.

    Args:
        baseline: its name.
        own: finite values of the group's runs, at least one.
        base: those of the baseline's.
        mode: which way is better, max or min; empty where nobody knows.
        margin: share of the baseline's mean below which a loss is none.
        agents: learning from rewards, so that interquartile means are what counts.
        time: as of `Against`.
    """
    first, second, paired = matched(own, base)
    fewest = min(len(first), len(second))
    if fewest >= BOOTSTRAP_FROM:
        statistic: Statistic = interquartile_mean if agents else _mean
        method: Literal["t", "bootstrap"] = "bootstrap"
        found = difference(first, second, paired, statistic)
    else:
        method, found = "t", t_difference(first, second, paired)
    level = float(second.mean())
    positive = min(first.min(), second.min()) > 0
    return Against(
        baseline,
        found,
        t_ratio(first, second, paired) if positive else None,
        float(found.value) / abs(level) if level else float("nan"),
        (len(first),) if paired else (len(first), len(second)),
        paired,
        method,
        _finding(found, mode, margin * abs(level), fewest, paired and bool((first == second).all())),
        time,
    )


def matched(own: Values, base: Values) -> tuple[np.ndarray, np.ndarray, bool]:
    """Values of both in pairs, where all match or at least three do; else all of them, unpaired."""
    common = [key for key in own if key in base]
    paired = bool(common) and (len(common) >= FEWEST or len(common) == len(own) == len(base))
    if paired:
        return np.array([own[key] for key in common]), np.array([base[key] for key in common]), True
    return np.array(list(own.values())), np.array(list(base.values())), False


def speed(own: Values, base: Values) -> Interval | None:
    """How many times as fast a group is, of seconds by process; None where there are none."""
    if not own or not base:
        return None
    first, second, paired = matched(own, base)
    return t_ratio(second, first, paired)


def sentence(name: str, found: Against, metric: str) -> str:
    """The verdict on a group, in a line."""
    counted = f" ({found.counted})"
    said, which = _speed(found.time), found.finding
    if which == "better" or which == "worse":
        joint = "" if said is None else " but " if _against_each_other(which, found.time) else " and "
        quality = f"{which} by {_size(found.difference)} in {metric}{_share(found)}"
        return f"{name} is {said or ''}{joint}{quality}{counted}"
    signed = _signed(found.difference)
    if which == "different":
        return f"{name} is {f'{said}; ' if said else ''}at {signed} in {metric}{_share(found)}{counted}"
    if which == "the same":
        return f"{name} is {f'{said} ' if said else ''}at exactly the same {metric} with every seed{counted}"
    if which == "no measurable loss":
        return f"{name} is {f'{said} ' if said else ''}at no measurable loss in {metric}: {signed}{counted}"
    told = f"too few seeds to tell by {metric}: {signed}{counted}"
    return f"{name} is {said}; {told}" if said else f"{name}: {told}"


def _finding(found: Interval, mode: str, margin: float, fewest: int, equal: bool) -> Finding:
    if fewest < FEWEST:
        return "too few seeds to tell"
    if equal:
        return "the same"
    if not found.low <= 0 <= found.high:
        if not mode:
            return "different"
        return "better" if (found.value > 0) == (mode == "max") else "worse"
    loss = {"max": -found.low, "min": found.high}.get(mode, max(-found.low, found.high))
    return "no measurable loss" if loss < margin else "too few seeds to tell"


def _against_each_other(which: Finding, time: Interval | None) -> bool:
    """Faster but worse, or slower but better."""
    return time is not None and bool(time.low > 1 if which == "worse" else time.high < 1)


def _speed(time: Interval | None) -> str | None:
    """`1.6x faster [1.5, 1.7]`"""
    if time is None or not np.isfinite(time.value):
        return None
    value, low, high = (float(end) for end in time)
    if not np.isfinite(high):
        return f"{_short(value)}x as fast in one run each"
    if low > 1:
        return f"{_short(value)}x faster [{_short(low)}, {_short(high)}]"
    if high < 1:
        return f"{_short(1 / value)}x slower [{_short(1 / high)}, {_short(1 / low)}]"
    interval = f"({_short(value)}x [{_short(low)}, {_short(high)}])"
    if high <= _AS_FAST and low >= 1 / _AS_FAST:
        return f"as fast {interval}"
    return f"of a speed that the runs cannot tell {interval}"


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.3g}"


def _signed(found: Interval) -> str:
    """`-0.02 [-0.11, +0.06]`; without an interval where there is none."""
    if not np.isfinite(found.high - found.low):
        return f"{found.value:+.4g}"
    form = _form(found)
    return f"{found.value:+{form}} [{found.low:+{form}}, {found.high:+{form}}]"


def _size(found: Interval) -> str:
    """The same without signs, for what lies on one side of zero."""
    form, (low, high) = _form(found), sorted((abs(found.low), abs(found.high)))
    return f"{abs(found.value):{form}} [{low:{form}}, {high:{form}}]"


def _form(found: Interval) -> str:
    """As many digits as the interval bears: two of its half width."""
    half = (found.high - found.low) / 2 or abs(found.value)
    if not half or half >= 10:
        return ",.0f"
    return f",.{min(10, 1 - int(np.floor(np.log10(half))))}f"


def _share(found: Against) -> str:
    return f", {100 * abs(found.share):.2g}% of {found.baseline}'s" if np.isfinite(found.share) else ""


def _mean(scores: np.ndarray) -> np.ndarray:
    return np.asarray(scores.mean(-1))


#: What the pages say below the verdicts; {margin} is to be filled in.
FOOTNOTE = (
    "The interval beside a group's own mean is a bootstrap over its runs, and too short for few: of three it holds the "
    "true mean 77 times in 100, of five 83 times. "
    "Intervals of differences are 95%: Student's t on pairs of the same seed, Welch's t where runs are no pairs, and "
    f"from {BOOTSTRAP_FROM} on a bootstrap over seeds. Better, worse: the interval leaves out zero. No measurable "
    "loss: it holds zero, and no loss in it reaches {margin:g}% of the baseline (--margin). Too few seeds to tell: "
    f"all else, and always fewer than {FEWEST} pairs. With fewer than six pairs a verdict supposes normal differences: "
    "no test of signs alone can reach 95% (2/2^n). Each interval stands alone: of twenty comparisons one is expected "
    "to miss. Faster: the ratio of seconds of fitting (perf/fit_s), geometric mean, t on its logarithm."
)
