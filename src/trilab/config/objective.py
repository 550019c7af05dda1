"""What the runs of a sweep are compared by: metrics, each with the way that is better."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trilab.errors import ConfigError, nearest

#: What every metric's name begins with.
_KINDS = ("train", "val", "test", "perf", "precision", "memory")
_LESS = re.compile(r"loss$|(?<!per)_(?:s|ms|mb)$")
_MORE = re.compile(r"_per_s$|accuracy$|auc$|return_mean$")
_NO_VALIDATION = ("none", 0)


@dataclass(frozen=True)
class Objectives:
    """Names of metrics, each with `min` or `max`.

    Args:
        modes: by metric, in the order of the configuration.
        asked: they stand in the configuration; otherwise they follow from the goal.
    """

    modes: Mapping[str, str]
    asked: bool = False

    def __str__(self) -> str:
        return ", ".join(f"{mode} {metric}" for metric, mode in self.modes.items())


def objectives_of(config: Mapping[str, Any]) -> Objectives:
    """What `sweep.metric` and `sweep.mode` name.

    By default it is the goal's metric as validated: whoever chooses by the test set has no test set left. Only where
    nothing is validated is it the test's.

    Raises:
        ConfigError: a metric that such a run cannot log, or one of which the better way is not known.
    """
    goal, sweep = config["goal"], config["sweep"]
    if sweep["metric"] is None:
        if sweep["mode"] is not None:
            raise ConfigError(f"sweep.mode={sweep['mode']}: goes with sweep.metric; alone it means nothing.")
        return Objectives({f"{'val' if _validated(config) else 'test'}/{goal['metric']}": goal["mode"]})
    metrics = sweep["metric"] if isinstance(sweep["metric"], list) else [sweep["metric"]]
    modes = sweep["mode"] if isinstance(sweep["mode"], list) else [sweep["mode"]] * len(metrics)
    if not metrics or len(set(metrics)) < len(metrics):
        raise ConfigError(f"sweep.metric={_shown(metrics)}: expected different metrics, one at least.")
    if len(modes) != len(metrics):
        raise ConfigError(
            f"sweep.mode={_shown(modes)}: expected one for each of the {len(metrics)} of sweep.metric, or one for all."
        )
    for metric in metrics:
        _check_logged(metric, config)
    return Objectives(
        {metric: mode or _mode_of(metric, goal) for metric, mode in zip(metrics, modes, strict=True)}, asked=True
    )


def _check_logged(metric: str, config: Mapping[str, Any]) -> None:
    kind, _, name = metric.partition("/")
    if kind not in _KINDS or not name:
        hint = nearest(kind, _KINDS) if name else f" Did you mean 'val/{metric}'?"
        allowed = ", ".join(f"{kind}/..." for kind in _KINDS)
        raise ConfigError(f"sweep.metric={metric}: no such metric.{hint} Allowed: {allowed}.")
    if kind == "val" and not _validated(config):
        raise ConfigError(
            f"sweep.metric={metric}: nothing is validated in these runs, so it is never logged. Set data.validation, "
            "or choose a metric of the test."
        )
    if kind == "test" and not config["test"]:
        raise ConfigError(f"sweep.metric={metric}: test=false, so it is never logged.")
    if kind not in ("test", "perf") and not config["fit"]:
        raise ConfigError(f"sweep.metric={metric}: fit=false, so it is never logged.")


def _validated(config: Mapping[str, Any]) -> bool:
    """Whether there is a validation, as far as the configuration tells."""
    if not config["fit"] or config["trainer"].get("limit_val_batches") in (0, 0.0):
        return False
    return config["data"].get("validation") not in _NO_VALIDATION


def _mode_of(metric: str, goal: Mapping[str, Any]) -> str:
    if metric.partition("/")[2] == goal["metric"]:
        return str(goal["mode"])
    if _LESS.search(metric):
        return "min"
    if _MORE.search(metric):
        return "max"
    raise ConfigError(f"sweep.metric={metric}: which way is better? Set sweep.mode to min or max.")


def _shown(values: list[Any]) -> str:
    return f"[{','.join('null' if value is None else str(value) for value in values)}]"
