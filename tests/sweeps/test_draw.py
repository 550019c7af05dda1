"""Random draws from a search space."""

import itertools
import statistics

import pytest

from trilab.config.space import Interval, space_of
from trilab.sweeps.draw import draws


def take(space, seed: int, count: int) -> list[dict[str, str]]:
    return list(itertools.islice(draws(space, seed), count))


def test_the_seed_settles_the_sequence_however_much_of_it_is_taken() -> None:
    space = space_of(["lr=tag(log, interval(1e-4,1e-1))", "seed=range(50)", "model=a,b"])
    ten = take(space, 0, 10)
    assert ten == take(space, 0, 30)[:10]
    assert ten != take(space, 1, 10)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_comes_twice_and_everything_comes(seed: int) -> None:
    space = space_of(["a=range(7)", "b=x,y,z", "c=tag(log, int(interval(1,4)))"])
    drawn = [tuple(values.items()) for values in draws(space, seed)]
    assert len(drawn) == len(set(drawn)) == 7 * 3 * 4
    assert drawn[:84] == [tuple(values.items()) for values in itertools.islice(draws(space, seed), 84)]


def test_an_interval_is_drawn_from_evenly_or_by_its_logarithm() -> None:
    even = [float(v["x"]) for v in take(space_of(["x=interval(1,100)"]), 0, 2000)]
    log = [float(v["x"]) for v in take(space_of(["x=tag(log, interval(1,100))"]), 0, 2000)]
    for values, middle in ((even, 50.5), (log, 10.0)):
        assert 1 <= min(values) <= max(values) <= 100
        share = statistics.mean(value < middle for value in values)
        assert abs(share - 0.5) < 4 * (0.25 / 2000) ** 0.5  # four standard deviations
    assert all(
        len(text.replace(".", "").strip("0")) <= 6
        for text in (v["x"] for v in take(space_of(["x=interval(1,2)"]), 3, 50))
    )


def test_whole_numbers_reach_both_ends() -> None:
    for log in (False, True):
        interval = str(Interval(2, 6, whole=True, log=log))
        assert {values["n"] for values in draws(space_of([f"n={interval}"]), 0)} == {"2", "3", "4", "5", "6"}
