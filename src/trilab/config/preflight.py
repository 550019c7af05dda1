"""Checks every run of a command before the first of them starts."""

from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from trilab.config.compose import compose
from trilab.config.job import build
from trilab.errors import ConfigError
from trilab.runtime import prepare_imports


def preflight(overrides: Sequence[str], config_dir: str | None, multirun: bool) -> None:
    """Composes and checks a run, or in a sweep each swept value with the first values of the others.

    A sweep of 3 x 4 x 10 values is checked in 1 + 2 + 3 + 9 compositions, not 120: a value is wrong by itself far more
    often than together with another, and each run is checked again when its turn comes.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    mine = own(overrides)
    if not multirun:
        _refuse_sweep(mine)
        _machine(compose(mine, config_dir))
        return
    for combination in _one_at_a_time(mine):
        _machine(compose(combination, config_dir))


def own(overrides: Sequence[str]) -> list[str]:
    """The overrides that are not Hydra's own settings."""
    return [override for override in overrides if not override.lstrip("+~").startswith(("hydra.", "hydra/"))]


def _machine(config: DictConfig) -> None:
    """Checks what only this machine can tell, and imports torch only where a setting depends on it."""
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


def _refuse_sweep(overrides: Sequence[str]) -> None:
    for override in _parse(overrides):
        if isinstance(override, Override) and override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line}: several values make a sweep. Add -m, or quote the value to pass it as it is."
            )


def _one_at_a_time(overrides: Sequence[str]) -> Iterator[list[str]]:
    values: list[list[str]] = []
    for override, text in zip(_parse(overrides), overrides, strict=True):
        values.append(_swept(override) if isinstance(override, Override) else [text])
    values = [options for options in values if options]
    first = [options[0] for options in values]
    yield first
    for position, options in enumerate(values):
        for option in options[1:]:
            yield [*first[:position], option, *first[position + 1 :]]


def _swept(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():
        return []  # an interval: its values come from a sweeper
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
