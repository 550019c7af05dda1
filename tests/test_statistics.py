"""Interquartile means and bootstrap intervals, against SciPy, hand-made numbers and simulation."""

import numpy as np
import pytest
from scipy import stats

from trilab.statistics import (
    Interval,
    bootstrap,
    difference,
    interquartile_mean,
    probability_of_improvement,
    t_difference,
    t_ratio,
)


@pytest.mark.parametrize("runs", [1, 2, 3, 4, 5, 7, 8, 10, 40])
def test_the_interquartile_mean_is_scipys_trimmed_mean(runs: int) -> None:
    scores = np.random.default_rng(runs).normal(size=(3, runs))
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=-1))


def test_the_interquartile_mean_by_hand() -> None:
    assert interquartile_mean(np.array([500.0, 1.0, 3.0, 2.0])) == 2.5
    # Ten runs: two go at either end, whatever their size.
    assert interquartile_mean(np.array([-1e9, 0, 1, 2, 3, 4, 5, 6, 7, 1e9])) == 3.5


def test_the_bootstrap_agrees_with_scipys() -> None:
    scores = np.random.default_rng(3).gamma(2.0, 50.0, size=30)
    ours = bootstrap([scores], resamples=20_000, seed=1)
    theirs = stats.bootstrap(
        (scores,),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=2,
    ).confidence_interval
    assert ours.value == pytest.approx(stats.trim_mean(scores, 0.25))
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_seeds_are_drawn_within_their_task() -> None:
    """Tasks of one constant score each: whatever is drawn, each task keeps its share, and there is no spread."""
    tasks = [np.full(4, 1.0), np.full(4, 3.0)]
    stratified = bootstrap(tasks, statistic=lambda x: x.mean(-1))
    assert (stratified.value, stratified.low, stratified.high) == (2.0, 2.0, 2.0)
    pooled = bootstrap([np.concatenate(tasks)], statistic=lambda x: x.mean(-1))
    assert pooled.low < 2.0 < pooled.high


def test_tasks_may_have_different_numbers_of_seeds() -> None:
    interval = bootstrap([np.array([1.0]), np.array([2.0, 3.0])], statistic=lambda x: x.mean(-1))
    assert interval.value == 2.0
    assert interval.low == pytest.approx(5 / 3)  # both draws of the second task are its first run
    assert interval.high == pytest.approx(7 / 3)


def test_a_curve_is_its_points_one_by_one() -> None:
    curves = np.random.default_rng(0).normal(size=(10, 7))
    band = bootstrap([curves], seed=5)
    for point in range(7):
        alone = bootstrap([curves[:, point]], seed=5)
        assert (band.value[point], band.low[point], band.high[point]) == pytest.approx(tuple(alone))


def test_one_seed_gives_one_interval() -> None:
    scores = [np.random.default_rng(0).normal(size=10)]
    assert bootstrap(scores, seed=1) == bootstrap(scores, seed=1)
    assert bootstrap(scores, seed=1) != bootstrap(scores, seed=2)
    assert str(Interval(np.float64(1.23456), np.float64(0.5), np.float64(2.0))) == "1.235 [0.5, 2]"


def test_what_a_seed_does_to_both_methods_cancels_in_pairs() -> None:
    seeds = np.random.default_rng(1).normal(0, 100, size=10)
    gains = np.linspace(0.5, 1.5, 10)
    paired = difference(seeds + gains, seeds, paired=True, statistic=lambda x: x.mean(-1))
    apart = difference(seeds + gains, seeds, paired=False, statistic=lambda x: x.mean(-1))
    assert paired.value == apart.value == pytest.approx(1.0)
    assert 0.5 <= paired.low < 1.0 < paired.high <= 1.5
    assert apart.low < 0 < apart.high
    with pytest.raises(ValueError, match="10 and 9 runs"):
        difference(seeds, seeds[1:], paired=True)


def test_the_difference_of_curves_has_a_value_for_each_point() -> None:
    first = np.array([[1.0, 5.0], [2.0, 6.0]])
    gap = difference(first, first - np.array([1.0, 2.0]), paired=True, statistic=lambda x: x.mean(-1))
    assert gap.value.tolist() == gap.low.tolist() == gap.high.tolist() == [1.0, 2.0]


def test_the_probability_of_improvement_by_hand() -> None:
    # Task 1: of 2 x 3 pairs x wins in 2 + 1, draws in 1 -> 3.5 of 6. Task 2: x wins always.
    first = [np.array([4.0, 2.0]), np.array([900.0])]
    second = [np.array([1.0, 3.0, 4.0]), np.array([100.0, 200.0])]
    assert probability_of_improvement(first, second).value == pytest.approx((3.5 / 6 + 1) / 2)
    scores = [np.random.default_rng(0).normal(size=10)]
    assert probability_of_improvement(scores, scores).value == 0.5


def test_the_probability_of_improvement_is_mann_whitneys_u() -> None:
    generator = np.random.default_rng(7)
    x, y = generator.normal(0.5, 1, 9), generator.normal(0, 1, 11)
    u = stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement([x], [y]).value == pytest.approx(u / (9 * 11))


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "least"), [(10, 0.89), (20, 0.91), (40, 0.93)])
def test_intervals_hold_the_true_value_nearly_as_often_as_they_say(runs: int, least: float) -> None:
    """The percentile bootstrap falls short of 95% with few runs, and comes near it with more."""
    generator = np.random.default_rng(11)
    hits = 0
    for trial in range(1000):
        interval = bootstrap([generator.normal(size=runs)], resamples=1000, seed=trial)
        hits += bool(interval.low <= 0.0 <= interval.high)  # a normal's interquartile mean is its mean
    print(f"{runs} runs: {hits / 10:.1f}%")
    assert least <= hits / 1000 <= 0.97


def test_students_t_of_pairs_is_scipys() -> None:
    generator = np.random.default_rng(5)
    first, second = generator.normal(1, 1, 6), generator.normal(0, 2, 6)
    ours = t_difference(first, second, paired=True, confidence=0.9)
    theirs = stats.ttest_rel(first, second).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.value == pytest.approx((first - second).mean())


def test_welchs_t_is_scipys() -> None:
    generator = np.random.default_rng(6)
    first, second = generator.normal(1, 1, 4), generator.normal(0, 3, 9)
    ours = t_difference(first, second, paired=False)
    theirs = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_ratios_are_differences_of_logarithms() -> None:
    first, second = np.array([2.0, 8.0, 4.0]), np.array([1.0, 2.0, 2.0])
    found = t_ratio(first, second, paired=True)
    assert found.value == pytest.approx(16 ** (1 / 3))  # 2 * 4 * 2
    back = t_ratio(second, first, paired=True)
    assert (1 / back.high, 1 / back.low) == pytest.approx((found.low, found.high))


def test_one_seed_rules_nothing_out_and_equal_ones_everything() -> None:
    alone = t_difference(np.array([3.0]), np.array([1.0]), paired=True)
    assert alone == Interval(2.0, -np.inf, np.inf)
    assert t_difference(np.array([3.0]), np.array([1.0, 2.0]), paired=False).high == np.inf
    equal = np.array([0.1, 0.1, 0.1])
    assert t_difference(equal, equal, paired=True) == Interval(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="3 and 2 runs"):
        t_difference(equal, equal[1:], paired=True)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [3, 5, 9])
def test_with_a_handful_of_seeds_t_holds_what_it_says_and_the_bootstrap_does_not(runs: int) -> None:
    generator = np.random.default_rng(12)
    held = {"t": 0, "bootstrap": 0}
    for trial in range(1000):
        first, second = generator.normal(size=(2, runs))
        for name, found in (
            ("t", t_difference(first, second, paired=True)),
            ("bootstrap", difference(first, second, True, lambda x: x.mean(-1), resamples=1000, seed=trial)),
        ):
            held[name] += bool(found.low <= 0 <= found.high)
    print(f"{runs} pairs: t {held['t'] / 10:.1f}%, bootstrap {held['bootstrap'] / 10:.1f}%")
    assert 0.93 <= held["t"] / 1000 <= 0.97
    assert held["bootstrap"] / 1000 < 0.93
