"""A search space in Optuna's terms, and its values in those of overrides."""

from collections.abc import Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from trilab.config.space import Dimension, Interval

#: A range of decimal fractions is not quite one in binary ones; after so many digits it is.
_DIGITS = 12


def distributions_of(dimensions: Mapping[str, Dimension]) -> dict[str, BaseDistribution]:
    """What Optuna draws from."""
    return {key: _distribution(dimension) for key, dimension in dimensions.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Interval):
        if dimension.whole:
            return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    if dimension.step is None or dimension.size < 2:
        return CategoricalDistribution(dimension.texts)
    numbers = sorted(round(float(text), _DIGITS) for text in dimension.texts)
    if all(text.lstrip("-").isdigit() for text in dimension.texts):
        return IntDistribution(int(numbers[0]), int(numbers[-1]), step=abs(int(dimension.step)))
    return FloatDistribution(numbers[0], numbers[-1], step=round(abs(dimension.step), _DIGITS))


def text_of(dimension: Dimension, value: str | float) -> str:
    """A value that Optuna drew, as it is written in an override."""
    if isinstance(dimension, Interval):
        return dimension.text(float(value))
    if isinstance(value, str):
        return value
    return min(dimension.texts, key=lambda text: abs(float(text) - value))  # a range: as grid writes it


def value_of(dimension: Dimension, text: str) -> str | float:
    """What Optuna is to take for a value as it is written in an override."""
    distribution = _distribution(dimension)
    if isinstance(distribution, CategoricalDistribution):
        return text
    return int(text) if isinstance(distribution, IntDistribution) else float(text)


def written(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return f"{distribution.low:g} to {distribution.high:g}{', by its logarithm' if distribution.log else ''}"
