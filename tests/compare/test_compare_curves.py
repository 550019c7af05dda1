"""Curves on a common grid, and several tasks in one figure; by hand."""

from pathlib import Path

import numpy as np
import pytest
from made_up import Store

from trilab.compare.across import across
from trilab.compare.comparison import Options, compare
from trilab.compare.curves import History, curve, drawn, histories, metric_of
from trilab.compare.find import select
from trilab.statistics import bootstrap, interquartile_mean


def history(steps: list[float], values: list[float], seconds_each: float = 1.0) -> History:
    return History(np.array(steps), np.array(steps) * seconds_each, np.array(values))


def test_runs_validated_at_different_steps_meet_on_straight_lines() -> None:
    first, second = history([0, 10, 20], [0.0, 1.0, 2.0]), history([5, 15], [2.5, 7.5])
    found = curve("x", [first, second], "steps", agents=False)
    assert found is not None
    # The second lasts from 5 to 15; there the first is x / 10 and the second x / 2.
    assert (found.x[0], found.x[-1]) == (5, 15)
    assert found.middle == pytest.approx((found.x / 10 + found.x / 2) / 2)
    assert found.low == pytest.approx(found.x / 10)
    assert found.high == pytest.approx(found.x / 2)


def test_the_same_steps_are_kept_as_they_are() -> None:
    found = curve("x", [history([0, 10], [1, 3]), history([0, 10], [2, 5])], "steps", agents=False)
    assert found is not None
    assert (found.x.tolist(), found.middle.tolist()) == ([0, 10], [1.5, 4])


def test_over_time_a_slower_run_is_further_to_the_right() -> None:
    slow = history([0, 10], [0, 1], seconds_each=2.0)
    found = curve("x", [history([0, 10], [0, 1]), slow], "seconds", agents=False)
    assert found is not None
    assert found.x[-1] == 10  # the end of the faster one
    assert found.middle[-1] == pytest.approx((1 + 0.5) / 2)


def test_ten_runs_get_an_interval_and_agents_an_interquartile_mean() -> None:
    values = np.random.default_rng(0).normal(size=(10, 3))
    found = curve("x", [history([0, 1, 2], list(row)) for row in values], "steps", agents=True)
    assert found is not None
    band = bootstrap([values], resamples=500)
    assert found.middle == pytest.approx(interquartile_mean(values.T))
    assert (found.low, found.high) == (pytest.approx(band.low), pytest.approx(band.high))


def test_no_curve_without_a_common_stretch() -> None:
    assert curve("x", [history([0, 1], [0, 0]), None], "steps", agents=False) is None
    assert curve("x", [history([0, 1], [0, 0]), history([2, 3], [0, 0])], "steps", agents=False) is None
    assert curve("x", [], "steps", agents=False) is None


def test_histories_are_read_as_they_were_logged(workdir: Path) -> None:
    store = Store(workdir)
    store.run(0, 0.9, curve=[(0, 1.0, 0.1), (20, 3.0, float("nan")), (10, 2.0, 0.5), (10, 4.0, 0.6)])
    store.run(1, 0.9, curve=[(0, 1.0, 0.1)])
    # A fit of 6 s at the end of 10 s that the run was open, and one that went on after all but its last validation.
    store.run(2, 0.9, fit_s=6.0, end_s=10.0, curve=[(0, 5.0, 0.1), (10, 9.0, 0.2)])
    store.run(3, 0.9, fit_s=2.0, end_s=10.0, curve=[(0, 5.0, 0.1), (10, 9.0, 0.2)])
    found = compare(select(store.client, ["made/up"], ""), Options())
    [task] = found.tasks
    assert metric_of(task) == "val/accuracy"
    first, second, third, fourth = histories(store.client, found.samples, "val/accuracy")
    assert first is not None
    assert (first.steps.tolist(), first.seconds.tolist(), first.values.tolist()) == ([0, 10], [1, 4], [0.1, 0.6])
    assert second is None
    assert third is not None
    assert third.seconds.tolist() == pytest.approx([1, 5])
    assert fourth is not None
    assert fourth.seconds.tolist() == pytest.approx([5, 9])


def test_of_many_groups_the_best_are_drawn(workdir: Path) -> None:
    store = Store(workdir)
    for number in range(12):
        store.run(0, number / 100, params={"optimizer.lr": str(number)})
    [task] = compare(select(store.client, ["made/up"], ""), Options()).tasks
    assert [row.group.name for row in drawn(task)] == [f"lr={number}" for number in range(4, 12)]


def test_several_tasks_together_by_hand(workdir: Path) -> None:
    """Scaled by task, 0 to 1; seeds are drawn within their task, so that constant scores leave no spread."""
    store = Store(workdir)
    agents = {
        "cartpole": {"dqn": [0.0, 0.0], "rainbow": [500.0, 500.0]},
        "acrobot": {"dqn": [-80, -80], "rainbow": [-90, -80]},
    }
    for data, models in agents.items():
        for model, scores in models.items():
            for seed, score in enumerate(scores):
                tags = {"trilab.data": f"rl/{data}", "trilab.model": f"rl/{model}"}
                store.run(seed, score, tags=tags)
    found = compare(select(store.client, ["made/up"], ""), Options(by=["data", "model"]))
    dqn, rainbow = across(found)
    assert (dqn.name, dqn.runs, dqn.better) == ("dqn", 4, None)
    assert float(dqn.scaled.value) == 0.5  # 0, 0, 1, 1: of four one is left out at either end
    assert (float(dqn.scaled.low), float(dqn.scaled.high)) == (0.5, 0.5)
    assert float(rainbow.scaled.value) == 1.0  # 1, 1, 0, 1
    assert rainbow.baseline == "dqn"
    assert rainbow.better is not None
    # On CartPole it wins all four; on Acrobot it loses two, and draws two: (1 + 1/4) / 2.
    assert float(rainbow.better.value) == pytest.approx(0.625)


def test_one_task_is_not_several(workdir: Path) -> None:
    store = Store(workdir)
    store.precisions()
    assert across(compare(select(store.client, ["made/up"], ""), Options())) == []
