"""What came of a run: its metrics, its result against its goal, and where it is kept."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trilab.statistics import interquartile_mean


@dataclass
class Summary:
    """What `summary.json` holds and the table at the end shows (`trilab.tables`)."""

    experiment: str
    model: str
    data: str
    seed: int
    precision: str
    accelerator: str
    goal: dict[str, Any]
    run_id: str
    store: str
    metrics: dict[str, float] = field(default_factory=dict)
    reference: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def split(self) -> str:
        """What the result was measured on: the test, or validation where there was no test."""
        return "test" if f"test/{self.goal['metric']}" in self.metrics else "val"

    @property
    def result(self) -> float | None:
        """The goal's metric."""
        return self.metrics.get(f"{self.split}/{self.goal['metric']}")

    @property
    def reached(self) -> bool | None:
        """Whether the goal's threshold was reached; None where there is none, or no result."""
        threshold, result = self.goal["threshold"], self.result
        if threshold is None or result is None:
            return None
        return result >= threshold if self.goal["mode"] == "max" else result <= threshold

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "result": self.result, "goal_reached": self.reached}


@dataclass
class BatchSummary:
    """The same of agents that were trained at once as one batch.

    Args:
        whole: of the batch; its metrics are means over the agents, and speeds of all together.
        members: of each agent.
    """

    whole: Summary
    members: list[Summary]

    @property
    def results(self) -> list[float]:
        """Of the agents that have one, in ascending order."""
        return sorted(member.result for member in self.members if member.result is not None)

    @property
    def result(self) -> float | None:
        """The mean over the agents."""
        return sum(self.results) / len(self.results) if self.results else None

    @property
    def reached(self) -> int | None:
        """How many agents reached the goal; None where there is none."""
        verdicts = [member.reached for member in self.members]
        return None if None in verdicts else sum(map(bool, verdicts))

    def as_dict(self) -> dict[str, Any]:
        results = self.results
        return {
            **vars(self.whole),
            "seed": [member.seed for member in self.members],
            "members": {member.seed: member.run_id for member in self.members},
            "results": {member.seed: member.result for member in self.members},
            "result": self.result,
            "result_interquartile_mean": float(interquartile_mean(np.array(results))) if results else None,
            "result_min": results[0] if results else None,
            "result_max": results[-1] if results else None,
            "goal_reached": self.reached,
        }
