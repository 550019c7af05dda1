"""What a sweeper's own settings must fulfil, by themselves and together with what it is to vary."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from trilab.config.check import check_part
from trilab.config.objective import Objectives
from trilab.config.space import Interval, Space
from trilab.errors import ConfigError

#: Where trilab's sweepers are; what others launch would neither be nested nor gone on with.
_PLUGINS = "hydra_plugins.trilab_sweepers."
_NAMES = ("grid", "random", "optuna")


def check_sweeper(sweeper: Mapping[str, Any], space: Space, objectives: Objectives) -> int | None:
    """Checks `hydra.sweeper`.

    Args:
        sweeper: its configuration; the option's name under `name`.
        space: what it varies.
        objectives: what its runs are compared by.

    Returns:
        how many runs there will be at most; None for a single one that varies nothing.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    name = sweeper["name"]
    target = str(sweeper.get("_target_"))
    if not target.startswith(_PLUGINS):
        raise ConfigError(
            f"hydra/sweeper={name}: not one of trilab's, which keep a record of their runs. Allowed: "
            f"{', '.join(_NAMES)}."
        )
    check_part("hydra.sweeper", {key: value for key, value in sweeper.items() if key != "name"})
    kind = target.removeprefix(_PLUGINS)
    if kind == "Grid":
        space.refuse_intervals("hydra/sweeper=grid")
        return space.size if space.dimensions else None
    if not space.dimensions:
        raise ConfigError(
            f"hydra/sweeper={name}: there is nothing to vary. Give keys something to choose from, as in "
            "'optimizer.lr=tag(log, interval(1e-4,1e-1))' or seed=1,2,3; or name them in hydra.sweeper.params."
        )
    if kind == "Optuna":
        _check_optuna(sweeper, space, objectives)
    return int(sweeper["n_trials"]) if space.size is None else min(int(sweeper["n_trials"]), space.size)


def _check_optuna(sweeper: Mapping[str, Any], space: Space, objectives: Objectives) -> None:
    sampler, pruner, metrics = sweeper["sampler"], sweeper["pruner"], list(objectives.modes)
    if sampler == "grid":
        space.refuse_intervals("hydra.sweeper.sampler=grid")
    if sampler == "cmaes":
        if importlib.util.find_spec("cmaes") is None:
            raise ConfigError("hydra.sweeper.sampler=cmaes needs the package cmaes: pip install 'trilab[cmaes]'.")
        if len(metrics) > 1:
            raise ConfigError("hydra.sweeper.sampler=cmaes takes one metric. For several: sampler=tpe.")
        numbers = [key for key, own in space.dimensions.items() if isinstance(own, Interval) or own.step]
        others = [key for key in space.dimensions if key not in numbers]
        if others:
            raise ConfigError(
                f"hydra.sweeper.sampler=cmaes: {others[0]} is chosen from values, and CMA-ES needs numbers: interval("
                "...) or range(...). For values: sampler=tpe."
            )
        if len(numbers) < 2:
            raise ConfigError("hydra.sweeper.sampler=cmaes needs two keys to vary at least. For one: sampler=tpe.")
    if pruner != "none":
        if len(metrics) > 1:
            raise ConfigError(f"hydra.sweeper.pruner={pruner} takes one metric, and sweep.metric names {len(metrics)}.")
        if not metrics[0].startswith("val/"):
            raise ConfigError(
                f"hydra.sweeper.pruner={pruner} stops runs by what is validated while they train, and {metrics[0]} is "
                "not: choose sweep.metric=val/..."
            )
        swept = [key for key in space.dimensions if key.lstrip("+") in ("trainer.seeds", "callbacks")]
        if swept:
            raise ConfigError(f"hydra.sweeper.pruner={pruner}: {swept[0]} cannot be swept with it.")
    if not objectives.asked and metrics[0].startswith("test/"):
        raise ConfigError(
            f"hydra/sweeper=optuna: nothing is validated in these runs, and values that are searched for by the test "
            f"have no test left. Set data.validation; or sweep.metric={metrics[0]}, if it is meant."
        )
