"""Values drawn at random from a search space: a sequence that a seed settles, and in which none comes twice."""

import math
import random
from collections.abc import Iterator

from trilab.config.space import Choice, Dimension, Space

#: Significant digits of a drawn number with a fraction.
_DIGITS = 6
#: Draws of known combinations in a row after which what is left is listed.
_PATIENCE = 100


def draws(space: Space, seed: int) -> Iterator[dict[str, str]]:
    """Draws combinations until there is none left.

    The sequence does not depend on how much of it is taken, so that a sweep which is launched again draws the same runs
    first.

    Args:
        space: what to draw from.
        seed: settles the sequence.
    """
    generator, size = random.Random(seed), space.size
    seen: set[tuple[str, ...]] = set()
    repeated = 0
    while size is None or len(seen) < size:
        if size is not None and repeated >= _PATIENCE:
            left = [values for values in space.combinations() if tuple(values.values()) not in seen]
            generator.shuffle(left)
            yield from left
            return
        values = {key: _draw(dimension, generator) for key, dimension in space.dimensions.items()}
        combination = tuple(values.values())
        repeated = repeated + 1 if combination in seen else 0
        if combination not in seen:
            seen.add(combination)
            yield values


def _draw(dimension: Dimension, generator: random.Random) -> str:
    if isinstance(dimension, Choice):
        return generator.choice(dimension.texts)
    low, high = dimension.low, dimension.high
    if dimension.whole and not dimension.log:
        return str(generator.randint(int(low), int(high)))
    if dimension.whole:  # as wide as those that round to it
        low, high = low - 0.5, high + 0.5
    share = generator.random()
    value = math.exp(math.log(low) + share * math.log(high / low)) if dimension.log else low + share * (high - low)
    if not dimension.whole:
        value = float(f"{value:.{_DIGITS}g}")
    return dimension.text(min(max(value, dimension.low), dimension.high))
