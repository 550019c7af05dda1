"""Verdicts, against SciPy's tests, hand-worked numbers, and what a person would say."""

import numpy as np
import pytest
from scipy import stats

from trilab.compare.verdict import Against, against, matched, sentence, speed
from trilab.statistics import Interval, interquartile_mean


def values(*scores: float, first: int = 0) -> dict[object, float]:
    return {("seed", first + place): score for place, score in enumerate(scores)}


def judged(own: dict, base: dict, mode: str = "max", margin: float = 0.01, agents: bool = False) -> Against:
    return against("fp32", own, base, mode, margin, agents, None)


def test_pairs_get_students_t_by_hand() -> None:
    # Differences -1, -2, -3: mean -2, standard error 1/sqrt(3), and 4.3027 is the 97.5% point of t with 2 degrees.
    found = judged(values(99, 98, 97), values(100, 100, 100))
    half = 4.302653 / np.sqrt(3)
    assert (found.runs, found.paired, found.method) == ((3,), True, "t")
    assert found.difference.value == pytest.approx(-2)
    assert found.difference.low == pytest.approx(-2 - half)
    assert found.difference.high == pytest.approx(-2 + half)
    assert found.share == pytest.approx(-0.02)
    assert found.finding == "too few seeds to tell"  # the interval holds zero, and losses of 4.5% too


def test_ten_pairs_get_the_bootstrap_of_the_statistic_that_counts() -> None:
    generator = np.random.default_rng(0)
    base = dict(enumerate(generator.normal(100, 5, 10)))
    own = {seed: score + generator.normal(3, 1) for seed, score in base.items()}
    for agents, statistic in ((False, np.mean), (True, lambda x: stats.trim_mean(x, 0.25))):
        found = judged(own, base, agents=agents)
        assert found.method == "bootstrap"
        assert found.difference.value == pytest.approx(statistic(list(own.values())) - statistic(list(base.values())))
        assert found.finding == "better"


def test_which_runs_are_pairs() -> None:
    base = values(1, 2, 3, 4, 5)
    first, second, paired = matched(values(9, 8, 7, first=2), base)
    assert paired
    assert (first.tolist(), second.tolist()) == ([9, 8, 7], [3, 4, 5])
    # Two seeds of many in common would throw the others away.
    first, second, paired = matched(values(9, 8, 7, first=3), base)
    assert not paired
    assert (len(first), len(second)) == (3, 5)
    assert matched(values(9, 8), values(1, 2))[2]
    assert not matched(values(9), values(1, first=1))[2]


@pytest.mark.parametrize(
    ("own", "base", "mode", "finding"),
    [
        ((0.91, 0.92, 0.93, 0.94), (0.90, 0.91, 0.92, 0.931), "max", "better"),
        ((0.91, 0.92, 0.93, 0.94), (0.90, 0.91, 0.92, 0.931), "min", "worse"),
        ((0.91, 0.92, 0.93, 0.94), (0.90, 0.91, 0.92, 0.931), "", "different"),
        ((0.900, 0.911, 0.919), (0.901, 0.910, 0.920), "max", "no measurable loss"),
        ((0.85, 0.95, 0.92), (0.90, 0.91, 0.92), "max", "too few seeds to tell"),  # wide
        ((0.2, 0.3), (0.8, 0.9), "max", "too few seeds to tell"),  # two, however far apart
        ((0.7, 0.8, 0.9), (0.7, 0.8, 0.9), "max", "the same"),
    ],
)
def test_what_is_said(own: tuple, base: tuple, mode: str, finding: str) -> None:
    assert judged(values(*own), values(*base), mode).finding == finding


def test_a_possible_gain_is_no_reason_to_doubt() -> None:
    """Only the end of the interval that is a loss counts against `no measurable loss`."""
    own, base = values(104, 100, 99.5, 100), values(100, 100, 99.5, 99.9)
    found = judged(own, base, margin=0.03)
    assert found.difference.high > 3 > -found.difference.low > 0
    assert found.finding == "no measurable loss"
    assert judged(own, base, mode="min", margin=0.03).finding == "too few seeds to tell"


def test_the_margin_is_the_share_that_a_loss_may_have() -> None:
    own, base = values(0.900, 0.911, 0.919), values(0.901, 0.910, 0.920)
    loss = -judged(own, base).difference.low / 0.91033
    assert judged(own, base, margin=loss * 1.01).finding == "no measurable loss"
    assert judged(own, base, margin=loss * 0.99).finding == "too few seeds to tell"


def test_without_pairs_it_is_welchs_t() -> None:
    own, base = values(5.0, 6.1, 7.3, 4.9), values(1.0, 2.5, 3.0, first=100)
    found = judged(own, base)
    theirs = stats.ttest_ind(list(own.values()), list(base.values()), equal_var=False).confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx((theirs.low, theirs.high))
    assert found.runs == (4, 3)
    assert "4 and 3 runs, no pairs" in sentence("x", found, "m")


def test_speed_is_a_ratio_of_geometric_means() -> None:
    # Ratios 2, 2 and 4: geometric mean 2^(4/3); the interval is that of the logarithms.
    found = speed(values(5, 10, 5), values(10, 20, 20))
    assert found is not None
    assert found.value == pytest.approx(2 ** (4 / 3))
    logs = np.log([2, 2, 4])
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert (found.low, found.high) == pytest.approx((np.exp(low), np.exp(high)))
    assert speed({}, values(1)) is None


def timed(finding: str, difference: tuple[float, float, float], time: tuple[float, float, float] | None) -> str:
    interval = Interval(*map(np.float64, difference))
    found = Against(
        "fp32", interval, None, interval.value / 50, (5,), True, "t", finding,  # type: ignore[arg-type]
        Interval(*map(np.float64, time)) if time else None,
    )  # fmt: skip
    return sentence("16-mixed", found, "test/accuracy")


FAST = (1.6, 1.5, 1.7)


@pytest.mark.parametrize(
    ("finding", "difference", "time", "said"),
    [
        (
            "no measurable loss",
            (-0.02, -0.11, 0.06),
            FAST,
            "is 1.60x faster [1.50, 1.70] at no measurable loss in test/accuracy: -0.020 [-0.110, +0.060] (5 pairs)",
        ),
        ("worse", (-2.0, -3.0, -1.0), FAST, "[1.50, 1.70] but worse by 2.0 [1.0, 3.0] in test/accuracy, 4% of fp32's"),
        ("better", (2.0, 1.0, 3.0), FAST, "is 1.60x faster [1.50, 1.70] and better by 2.0 [1.0, 3.0]"),
        ("better", (2.0, 1.0, 3.0), (0.5, 0.4, 0.625), "is 2.00x slower [1.60, 2.50] but better by 2.0"),
        ("worse", (-2.0, -3.0, -1.0), (0.5, 0.4, 0.625), "is 2.00x slower [1.60, 2.50] and worse by 2.0"),
        ("better", (2.0, 1.0, 3.0), None, "16-mixed is better by 2.0 [1.0, 3.0] in test/accuracy, 4% of fp32's (5 p"),
        ("too few seeds to tell", (2.0, -9.0, 13.0), None, "16-mixed: too few seeds to tell by test/accuracy: +2"),
        ("too few seeds to tell", (2.0, -9.0, 13.0), (1.0, 0.98, 1.02), "is as fast (1.00x [0.98, 1.02]); too few"),
        ("the same", (0.0, 0.0, 0.0), (1.3, 0.7, 2.5), "that the runs cannot tell (1.30x [0.70, 2.50]) at exactly"),
        ("too few seeds to tell", (2.0, -np.inf, np.inf), (1.3, 0.0, np.inf), "1.30x as fast in one run each; too few"),
    ],
)  # fmt: skip
def test_the_sentence(finding: str, difference: tuple, time: tuple | None, said: str) -> None:
    assert said in timed(finding, difference, time)


def test_the_interquartile_mean_counts_for_agents() -> None:
    """One lucky seed of twelve moves the mean, and not the interquartile mean."""
    base = dict(enumerate(np.linspace(100, 101, 12)))
    own = {**base, 11: 5000.0}
    assert judged(own, base).difference.value > 400
    found = judged(own, base, agents=True)
    assert found.difference.value == pytest.approx(
        interquartile_mean(np.array(list(own.values()))) - interquartile_mean(np.array(list(base.values())))
    )
    assert found.difference.value == pytest.approx(0, abs=1e-9)
