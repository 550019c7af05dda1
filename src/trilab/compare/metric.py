"""Which metric a comparison is about, and which way of it is better."""

import math
from collections.abc import Sequence

from trilab.compare.samples import Sample
from trilab.errors import ConfigError, nearest

#: Where a metric without its split is looked for, in this order.
_SPLITS = ("test/", "val/", "train/", "perf/")
#: What the last parts of metrics' names begin or end with, by the way that is better.
_HIGHER = ("accuracy", "auc", "return", "hit_rate", "ndcg", "_per_s")
_LOWER = ("loss", "error", "logloss", "rmse", "mae", "_s", "_ms", "_mb")


def named(asked: str, samples: Sequence[Sample]) -> str:
    """The metric that a user means: `test/accuracy`, or `accuracy` for the first split that has it.

    Raises:
        ConfigError: no run has logged it.
    """
    known = logged(samples)
    for name in (asked, *(f"{split}{asked}" for split in _SPLITS)):
        if name in known:
            return name
    shown = [name for name in known if name.startswith(_SPLITS)] or known
    raise ConfigError(
        f"--metric {asked}: no run has logged it.{nearest(asked, known)} There is: {', '.join(shown) or 'none'}."
    )


def of_goal(samples: Sequence[Sample]) -> str:
    """The goal's metric on the test; on validation where no run was tested.

    Raises:
        ConfigError: the runs have no goal, or never logged its metric.
    """
    goal = samples[0].goal[0]
    known = logged(samples)
    for name in (f"test/{goal}", f"val/{goal}"):
        if goal and name in known:
            return name
    shown = [name for name in known if name.startswith(_SPLITS)]
    what = f"no run has logged test/{goal} or val/{goal}, its goal" if goal else "the runs have no goal"
    raise ConfigError(f"compare: {what}. Choose one by --metric: {', '.join(shown) or 'none is logged'}.")


def mode(name: str, sample: Sample) -> str:
    """max or min, whichever is better; empty where nothing says so."""
    goal, way = sample.goal
    last = name.rpartition("/")[2]
    if goal and last == goal:
        return way
    if last.endswith(_HIGHER) or last.startswith(_HIGHER):
        return "max"
    return "min" if last.endswith(_LOWER) or last.startswith(_LOWER[:5]) else ""


def logged(samples: Sequence[Sample]) -> list[str]:
    """Every metric that some run has, speeds of batches among them."""
    own = {name for sample in samples for name in sample.metrics}
    return sorted(own | {name for sample in samples for name in sample.measured if name.startswith("perf/")})


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
