"""What came of several agents, on numbers made by hand."""

from typing import Any

from trilab.summary import BatchSummary, Summary
from trilab.tables import short_result


def summary(seed: int, result: float | None, threshold: float | None = 4.0, mode: str = "max") -> Summary:
    goal: dict[str, Any] = {"metric": "score", "mode": mode, "threshold": threshold, "source": None}
    metrics = {} if result is None else {"test/score": result}
    return Summary("e", "m", "d", seed, "fp32", "cpu", goal, f"run{seed}", "store", metrics)


def test_results_of_a_batch() -> None:
    batch = BatchSummary(summary(0, 9.9), [summary(0, 5.0), summary(1, 1.0), summary(2, 4.0), summary(3, 900.0)])
    found = batch.as_dict()
    assert found["results"] == {0: 5.0, 1: 1.0, 2: 4.0, 3: 900.0}
    assert found["members"] == {0: "run0", 1: "run1", 2: "run2", 3: "run3"}
    assert found["result"] == batch.result == 227.5
    assert found["result_interquartile_mean"] == 4.5
    assert (found["result_min"], found["result_max"], found["goal_reached"]) == (1.0, 900.0, 3)
    assert "4 agents: mean 227.5, interquartile mean 4.5, 1 to 900: goal >= 4 reached by 3 of 4" in short_result(batch)


def test_results_of_a_batch_that_has_none_or_no_goal() -> None:
    without = BatchSummary(summary(0, None), [summary(0, None), summary(1, None)])
    assert without.result is without.reached is without.as_dict()["result_interquartile_mean"] is None
    assert short_result(without).startswith("no score: nothing was evaluated")
    aimless = BatchSummary(summary(0, 1.0, None), [summary(0, 1.0, None), summary(1, 3.0, None)])
    assert aimless.reached is None
    assert aimless.result == 2.0
    lower = BatchSummary(summary(0, 1.0, mode="min"), [summary(0, 1.0, mode="min"), summary(1, 5.0, mode="min")])
    assert lower.reached == 1
