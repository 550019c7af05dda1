"""Checks every run of a command before the first of them starts."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from trilab.config.catalog import GROUPS
from trilab.config.check import check
from trilab.config.compose import compose, set_value
from trilab.config.job import build
from trilab.errors import ConfigError
from trilab.runtime import prepare_imports

#: What all runs of a sweep have in common.
_NEVER_SWEPT = ("sweep.name", "tracking.uri", "tracking.experiment_name", "paths.outputs")


@dataclass(frozen=True)
class Checked:
    """A command whose runs can all be composed.

    Args:
        config: of its first run.
        swept: the values of each key that has several; none of one whose values come from the sweeper.
        experiment_names: the MLflow experiments that its runs go to.
    """

    config: DictConfig
    swept: dict[str, list[str]] = field(default_factory=dict)
    experiment_names: list[str] = field(default_factory=list)

    @property
    def runs(self) -> int | None:
        """How many there are; None where the sweeper decides."""
        sizes = [len(values) for values in self.swept.values()]
        return math.prod(sizes) if all(sizes) else None


def preflight(overrides: Sequence[str], config_dir: str | None, multirun: bool) -> Checked:
    """Composes and checks a run, or in a sweep each swept value with the first values of the others.

    A sweep of 3 x 4 x 10 values is checked in 1 + 2 + 3 + 9 steps, not 120: a value is wrong by itself far more often
    than together with another. Only an option of a group needs a composition of its own; a plain value is put into the
    first one.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    parsed = _parse(overrides)
    if not multirun:
        _refuse_sweep(parsed)
        config = compose(overrides, config_dir)
        _machine(config)
        return Checked(config)
    values = [_swept(override) if isinstance(override, Override) else [override] for override in parsed]
    first = [options[0] for options in values if options]
    base = compose(first, config_dir)
    _machine(base)
    names = [base.tracking.experiment_name]
    swept: dict[str, list[str]] = {}
    for position, (override, options) in enumerate(zip(parsed, values, strict=True)):
        if not isinstance(override, Override) or not override.is_sweep_override():
            continue
        key = override.get_key_element().lstrip("+")
        if override.key_or_group in _NEVER_SWEPT:
            raise ConfigError(f"{override.input_line}: a sweep has one {override.key_or_group}.")
        swept[key] = [option.partition("=")[2] for option in options]
        for option in options[1:]:
            if override.key_or_group in GROUPS:
                others = [o[0] for p, o in enumerate(values) if o and p != position]
                config = compose([*others, option], config_dir)
                _machine(config)
                names.append(config.tracking.experiment_name)
            else:
                _machine(_with_value(base, option))
    return Checked(base, swept, sorted(set(names)))


def _with_value(base: DictConfig, text: str) -> DictConfig:
    override = OverridesParser.create().parse_override(text)
    config = copy.deepcopy(base)
    set_value(config, override.key_or_group, override.value(), override.is_add() or override.is_force_add())
    check(config)
    return config


def _machine(config: DictConfig) -> None:
    """Checks what only this machine can tell, and imports torch only where a setting depends on it."""
    if config.resume is not None and not Path(config.resume).is_file():
        raise ConfigError(f"resume={config.resume}: there is no such file.")
    build(config.tracking)
    accelerator, precision = config.accelerator, config.precision
    if accelerator.name in ("cuda", "mps"):
        build(accelerator).device()
    if precision.strict:
        prepare_imports()
        build(precision).on(build(accelerator).device())


def _parse(overrides: Sequence[str]) -> list[Override | str]:
    parser = OverridesParser.create()
    parsed: list[Override | str] = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException:
            parsed.append(text)  # composing will say what is wrong with it
    return parsed


def _refuse_sweep(parsed: Sequence[Override | str]) -> None:
    for override in parsed:
        if isinstance(override, Override) and override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line}: several values make a sweep. Add -m, or quote the value to pass it as it is."
            )


def _swept(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():
        return []  # an interval: its values come from a sweeper
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
