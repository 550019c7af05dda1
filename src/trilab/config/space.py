"""What a sweep varies, in Hydra's syntax: values to choose from (`a,b`, `choice`, `range`, `glob`) and intervals."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from trilab.config.catalog import catalog
from trilab.errors import ConfigError, nearest

#: Values of one key; a longer list is a slip of the pen.
_MOST = 10_000
_TAGS = ("log", "int")


@dataclass(frozen=True)
class Choice:
    """Values to choose from, as they are written in an override.

    Args:
        texts: the values.
        step: between one and the next, where they are numbers at equal distances (`range`).
    """

    texts: tuple[str, ...]
    step: float | None = None

    @property
    def size(self) -> int:
        return len(self.texts)

    def __str__(self) -> str:
        return ", ".join(self.texts)


@dataclass(frozen=True)
class Interval:
    """Numbers between two, both included.

    Args:
        low: the least.
        high: the greatest.
        whole: whole numbers alone, as in `int(interval(1,8))`.
        log: equal factors are equally likely, not equal distances: `tag(log, interval(1e-4,1e-1))`.
    """

    low: float
    high: float
    whole: bool = False
    log: bool = False

    @property
    def size(self) -> int | None:
        """How many numbers that is; None where they are not counted."""
        return int(self.high) - int(self.low) + 1 if self.whole else None

    def text(self, value: float) -> str:
        """A number of it, as it is written in an override."""
        return str(round(value)) if self.whole else repr(float(value))

    def __str__(self) -> str:
        inner = f"interval({self.text(self.low)},{self.text(self.high)})"
        inner = f"int({inner})" if self.whole else inner
        return f"tag(log, {inner})" if self.log else inner


Dimension = Choice | Interval


@dataclass(frozen=True)
class Space:
    """The overrides of a sweep, those that vary among them, in the order in which they were given.

    Args:
        parts: of each key the override as it stands, or what to choose its value from.
    """

    parts: Mapping[str, str | Dimension]

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """What varies, by key."""
        return {key: part for key, part in self.parts.items() if not isinstance(part, str)}

    @property
    def size(self) -> int | None:
        """How many combinations there are; None where they are not counted."""
        sizes = [dimension.size for dimension in self.dimensions.values()]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def overrides(self, values: Mapping[str, str]) -> list[str]:
        """Those of the run that has these values."""
        return [part if isinstance(part, str) else f"{key}={values[key]}" for key, part in self.parts.items()]

    def combinations(self) -> Iterator[dict[str, str]]:
        """Every combination, the last key's values first. Of intervals of whole numbers all of those."""
        keys = list(self.dimensions)
        for values in itertools.product(*(_every(self.dimensions[key]) for key in keys)):
            yield dict(zip(keys, values, strict=True))

    def refuse_intervals(self, what: str) -> None:
        """Raises ConfigError where values are to be listed and an interval is given."""
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Interval):
                raise ConfigError(
                    f"{key}={dimension}: {what} takes values, as in {key}={dimension.text(dimension.low)},"
                    f"{dimension.text(dimension.high)} or range(...). An interval is for hydra/sweeper=random and "
                    "hydra/sweeper=optuna."
                )


def _every(dimension: Dimension) -> Sequence[str]:
    if isinstance(dimension, Choice):
        return dimension.texts
    assert dimension.whole
    return [str(number) for number in range(int(dimension.low), int(dimension.high) + 1)]


def space_of(overrides: Sequence[str], config_dir: str | Path | None = None) -> Space:
    """Reads the overrides of a sweep. Of two for one key the later counts.

    Args:
        overrides: as on the command line. What cannot be read stays as it is, for the composition to say why.
        config_dir: the user's own options, which `glob` finds too.

    Raises:
        ConfigError: a key that is given nothing to choose from, or an interval that is none.
    """
    parser = OverridesParser.create()
    parts: dict[str, str | Dimension] = {}
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            parts[text] = text
            continue
        part = _dimension(override, text, config_dir) if override.is_sweep_override() else text
        parts[override.get_key_element()] = part
    return Space(parts)


def _dimension(override: Override, text: str, config_dir: str | Path | None) -> Dimension:
    value = override.value()
    if isinstance(value, IntervalSweep):
        return _interval(value, text)
    tags: set[str] = getattr(value, "tags", set())
    if tags:
        raise ConfigError(f"{text}: tag({', '.join(sorted(tags))}, ...) is for an interval, and these are values.")
    if isinstance(value, Glob):
        folder = Path(config_dir) if config_dir is not None else None
        texts = value.filter([option.name for option in catalog(override.key_or_group, folder)])
        step = None
    else:
        texts, step = _texts(override, text), None
        if isinstance(value, RangeSweep) and not value.shuffle:
            step = float(value.step)
    texts = list(dict.fromkeys(texts))
    if not texts:
        raise ConfigError(f"{text}: there is nothing to choose from.{_hint(override)}")
    return Choice(tuple(texts), step)


def _texts(override: Override, text: str) -> list[str]:
    try:
        texts = list(itertools.islice(override.sweep_string_iterator(), _MOST + 1))
    except (HydraException, ArithmeticError, ValueError, TypeError) as error:
        raise ConfigError(f"{text}: {' '.join(str(error).split())}") from None
    if len(texts) > _MOST:
        raise ConfigError(f"{text}: more than {_MOST} values.")
    return texts


def _hint(override: Override) -> str:
    value = override.value()
    if isinstance(value, RangeSweep):
        return f" A range begins below its end: range(start,stop,step), here {value.start}, {value.stop}, {value.step}."
    if isinstance(value, Glob):
        return f" Options that match: none; see trilab list {override.key_or_group}."
    return ""


def _interval(value: IntervalSweep, text: str) -> Interval:
    for tag in sorted(value.tags):
        if tag not in _TAGS:
            raise ConfigError(f"{text}: no tag '{tag}'.{nearest(tag, _TAGS)} Allowed: {', '.join(_TAGS)}.")
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    whole = isinstance(low, int) or "int" in value.tags
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"{text}: an interval has two ends, and one of these is {low if math.isinf(low) else high}.")
    if not low < high:
        raise ConfigError(f"{text}: its lower end {low:g} is not below its upper end {high:g}.")
    if "log" in value.tags and low <= 0:
        raise ConfigError(f"{text}: a logarithm needs a lower end above 0, and {low:g} is not.")
    if whole and not (float(low).is_integer() and float(high).is_integer()):
        raise ConfigError(f"{text}: the ends of an interval of whole numbers are whole numbers.")
    return Interval(low, high, whole, "log" in value.tags)
