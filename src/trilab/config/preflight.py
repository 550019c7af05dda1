"""Checks every run of a command before the first of them starts."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from trilab.config.catalog import GROUPS
from trilab.config.check import check
from trilab.config.compose import compose, compose_with_hydra, set_value
from trilab.config.job import build
from trilab.config.launcher import is_elsewhere
from trilab.config.objective import Objectives, objectives_of
from trilab.config.space import Choice, Dimension, Interval, Space, space_of
from trilab.config.sweeper import check_sweeper
from trilab.errors import ConfigError
from trilab.runtime import prepare_imports

#: What all runs of a sweep have in common.
_NEVER_SWEPT = (
    "sweep.name",
    "sweep.metric",
    "sweep.mode",
    "sweep.compare",
    "tracking.uri",
    "tracking.experiment_name",
    "paths.outputs",
)
#: What Hydra's own keys begin with.
_HYDRA = ("hydra/", "hydra.")
#: Longest range of which every value is checked.
_LONG = 100


@dataclass(frozen=True)
class Checked:
    """A command whose runs can all be composed.

    Args:
        config: of its first run.
        swept: the values of each key that has several; of an interval what it is.
        experiment_names: the MLflow experiments that its runs go to.
        runs: how many there will be at most.
        first: overrides of its first run, Hydra's own among them.
        space: what the runs are chosen from.
        sweeper: what chooses (`hydra.sweeper`); empty of a single run.
        objectives: what they are compared by.
    """

    config: DictConfig
    swept: dict[str, list[str]] = field(default_factory=dict)
    experiment_names: list[str] = field(default_factory=list)
    runs: int = 1
    first: list[str] = field(default_factory=list)
    space: Space = field(default_factory=lambda: Space({}))
    sweeper: dict[str, Any] = field(default_factory=dict)
    objectives: Objectives = field(default_factory=lambda: Objectives({}))


def preflight(overrides: Sequence[str], config_dir: str | None, multirun: bool) -> Checked:
    """Composes and checks a run, or in a sweep each swept value with the first values of the others.

    A sweep of 3 x 4 x 10 values is checked in 1 + 2 + 3 + 9 steps, not 120: a value is wrong by itself far more often
    than together with another. Only an option of a group needs a composition of its own; a plain value is put into the
    first one. Of an interval, and of a long range, both ends are checked.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    if not multirun:
        _refuse_sweep(overrides)
        config = compose(overrides, config_dir)
        _machine(config)
        return Checked(config)
    space = space_of(overrides, config_dir)
    _refuse_fixed(space)
    base, sweeper, launcher = compose_with_hydra(_first(space), config_dir)
    here = not is_elsewhere(launcher)
    if sweeper.get("params"):  # what a configuration sweeps; the command line comes after it
        params = as_overrides(sweeper["params"])
        space = space_of([*params, *overrides], config_dir)
        _refuse_fixed(space)
        base = compose(_first(space), config_dir)
    objectives = objectives_of(OmegaConf.to_container(base))  # type: ignore[arg-type]
    runs = check_sweeper(sweeper, space, objectives)
    _machine(base, here)
    names = [base.tracking.experiment_name]
    for key, dimension in space.dimensions.items():
        group = key.lstrip("+").partition("@")[0]
        if group in GROUPS and isinstance(dimension, Interval):
            raise ConfigError(f"{key}={dimension}: {group} is chosen from its options. See trilab list {group}.")
        for text in _to_check(dimension):
            if group in GROUPS:
                config = compose(_first(space, {key: text}), config_dir)
                _machine(config, here)
                names.append(config.tracking.experiment_name)
            else:
                _machine(_with_value(base, key, text, dimension), here)
    swept = {key.lstrip("+"): _shown(dimension) for key, dimension in space.dimensions.items()}
    of_runs = Space({key: part for key, part in space.parts.items() if not key.lstrip("+~").startswith(_HYDRA)})
    return Checked(base, swept, sorted(set(names)), runs or 1, _first(space), of_runs, sweeper, objectives)


def as_overrides(params: Mapping[str, Any]) -> list[str]:
    """`hydra.sweeper.params` as if it stood on the command line."""
    return [f"{key}={'null' if value is None else value}" for key, value in params.items()]


def _first(space: Space, values: Mapping[str, str] | None = None) -> list[str]:
    """The overrides of the first run, or of one that has other values of some keys; without those of intervals."""
    texts = []
    for key, part in space.parts.items():
        if isinstance(part, str):
            texts.append(part)
        elif values and key in values:
            texts.append(f"{key}={values[key]}")
        elif isinstance(part, Choice):
            texts.append(f"{key}={part.texts[0]}")
    return texts


def _to_check(dimension: Dimension) -> Sequence[str]:
    """The values that are put into the first run's configuration, which has the first of a list already."""
    if isinstance(dimension, Interval):
        return [dimension.text(dimension.low), dimension.text(dimension.high)]
    if dimension.step is not None and dimension.size > _LONG:
        return [dimension.texts[-1]]
    return dimension.texts[1:]


def _shown(dimension: Dimension) -> list[str]:
    return list(dimension.texts) if isinstance(dimension, Choice) else [str(dimension)]


def _refuse_fixed(space: Space) -> None:
    for key, part in space.parts.items():
        if key.lstrip("+").startswith("hydra.sweep."):
            raise ConfigError(f"{part}: a sweep's runs are in paths.outputs/sweeps/NAME, a numbered folder for each.")
    for key, dimension in space.dimensions.items():
        name = key.lstrip("+")
        if name in _NEVER_SWEPT or name.startswith(_HYDRA):
            raise ConfigError(f"{key}={dimension}: a sweep has one {name}.")


def _with_value(base: DictConfig, key: str, text: str, dimension: Dimension) -> DictConfig:
    override = OverridesParser.create().parse_override(f"{key}={text}")
    config = copy.deepcopy(base)
    try:
        set_value(config, override.key_or_group, override.value(), override.is_add() or override.is_force_add())
        check(config)
    except ConfigError as error:
        hint = ""
        if isinstance(dimension, Interval) and not dimension.whole and "expected a whole number" in str(error):
            hint = f" For whole numbers between two: int(interval({dimension.low:g},{dimension.high:g}))."
        raise ConfigError(f"{error}{hint}") from None
    return config


def _machine(config: DictConfig, here: bool = True) -> None:
    """Checks what only this machine can tell, and imports torch only where a setting depends on it.

    Args:
        config: of a run.
        here: the run will be on this machine; on another one it finds out itself which devices there are.
    """
    if config.resume is not None and not Path(config.resume).is_file():
        raise ConfigError(f"resume={config.resume}: there is no such file.")
    build(config.tracking)
    if not here:
        return
    accelerator, precision = config.accelerator, config.precision
    if accelerator.name in ("cuda", "mps"):
        build(accelerator).device()
    if precision.strict:
        prepare_imports()
        build(precision).on(build(accelerator).device())


def _refuse_sweep(overrides: Sequence[str]) -> None:
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            continue  # composing will say what is wrong with it
        if override.is_sweep_override():
            raise ConfigError(f"{text}: several values make a sweep. Add -m, or quote the value to pass it as it is.")
