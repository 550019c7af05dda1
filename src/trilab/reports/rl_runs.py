"""The agents of a study, as MLflow holds them: lone runs, and each agent of a batch of seeds."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mlflow.entities import Run

from trilab.errors import UserError
from trilab.reports.runs import all_runs, artifact_text
from trilab.reports.study import LABEL_TAG
from trilab.tracking.store import MlflowClient

#: Metrics whose whole history is wanted, over environment steps.
CURVES = ("val/return_mean", "val/overestimation", "val/q_predicted", "val/q_real")
_SPEED = "perf/env_steps_per_s"


@dataclass(frozen=True)
class Agent:
    """One trained agent.

    Args:
        run_id: of its own run.
        environment: Gymnasium's id.
        model: its label in the study, else the file name of the model's configuration.
        seed: its seed.
        test_return: mean return over the test's episodes, best checkpoint.
        threshold: return at which the environment counts as solved; None where it names none.
        env_steps_per_s: of the process, all agents of its batch together; None where it was not measured.
        agents: how many were trained in that process at once.
        curves: by metric: environment steps (points,) and values (points,).
        tags: of its run.
        started: when, in seconds since 1970.
    """

    run_id: str
    environment: str
    model: str
    seed: int
    test_return: float
    threshold: float | None
    env_steps_per_s: float | None
    agents: int
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)
    tags: Mapping[str, str] = field(repr=False)
    started: float = 0.0


def collect(client: MlflowClient, experiment_name: str) -> list[Agent]:
    """All finished agents of an MLflow experiment; where one was trained twice, the later.

    Raises:
        UserError: there are none.
    """
    experiment = client.get_experiment_by_name(experiment_name)
    runs = all_runs(client, experiment.experiment_id) if experiment is not None else []
    by_id = {run.info.run_id: run for run in runs}
    parents = [run.data.tags["mlflow.parentRunId"] for run in runs if "mlflow.parentRunId" in run.data.tags]
    latest: dict[tuple[str, str, int], Agent] = {}
    for run in sorted(runs, key=lambda run: run.info.start_time):
        if run.info.run_id in parents or "trilab.source_run" in run.data.tags:  # of many agents; of a mere test
            continue
        if run.info.status != "FINISHED" or "test/return_mean" not in run.data.metrics:
            continue
        parent = by_id.get(run.data.tags.get("mlflow.parentRunId", ""))
        siblings = parents.count(parent.info.run_id) if parent is not None else 1
        agent = _agent(client, run, parent or run, siblings)
        latest[agent.environment, agent.model, agent.seed] = agent
    if not latest:
        raise UserError(f"The store holds no finished run with a test in the MLflow experiment '{experiment_name}'.")
    return list(latest.values())


def _agent(client: MlflowClient, run: Run, process: Run, agents: int) -> Agent:
    run_id, data = run.info.run_id, run.data
    curves = {}
    for name in CURVES:
        if name in data.metrics:
            points = {metric.step: metric.value for metric in client.get_metric_history(run_id, name)}
            steps = np.array(sorted(points), float)
            curves[name] = steps, np.array([points[int(step)] for step in steps])
    threshold = _summary(client, run_id).get("goal", {}).get("threshold")
    return Agent(
        run_id=run_id,
        environment=data.params["data.env_id"],
        model=process.data.tags.get(LABEL_TAG) or data.tags["trilab.model"].rpartition("/")[2],
        seed=int(data.params["seed"]),
        test_return=data.metrics["test/return_mean"],
        threshold=None if threshold is None else float(threshold),
        env_steps_per_s=process.data.metrics.get(_SPEED),
        agents=agents,
        curves=curves,
        tags={**process.data.tags, **data.tags},
        started=run.info.start_time / 1000,
    )


def _summary(client: MlflowClient, run_id: str) -> dict[str, Any]:
    text = artifact_text(client, run_id, "summary.json")
    return dict(json.loads(text)) if text else {}


def grouped(agents: Iterable[Agent], models: Sequence[str]) -> dict[str, dict[str, list[Agent]]]:
    """By environment, in the order of their first runs, and by model, in the order given; agents by their seeds."""
    groups: dict[str, dict[str, list[Agent]]] = {}
    found = sorted(agents, key=lambda a: a.started)
    order = list(dict.fromkeys([*models, *(a.model for a in found)]))
    environments = list(dict.fromkeys(a.environment for a in found))
    for agent in sorted(found, key=lambda a: (environments.index(a.environment), order.index(a.model), a.seed)):
        groups.setdefault(agent.environment, {}).setdefault(agent.model, []).append(agent)
    return groups


def scores(agents: Sequence[Agent]) -> np.ndarray:
    """Test returns: (seeds,)"""
    return np.array([agent.test_return for agent in agents])


def curve(agents: Sequence[Agent], metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """A metric over environment steps: (points,) and (seeds, points); None where an agent has not logged it.

    Agents that were validated at different steps are read off, in straight lines, at those of the shortest curve.
    """
    found = [agent.curves[metric] for agent in agents if metric in agent.curves]
    if len(found) < len(agents) or not found:
        return None
    steps = min((steps for steps, _ in found), key=len)
    return steps, np.stack([np.interp(steps, own, values) for own, values in found])


def paired_scores(first: Sequence[Agent], second: Sequence[Agent]) -> bool:
    """Whether both have the same seeds, in the same order."""
    return [agent.seed for agent in first] == [agent.seed for agent in second]
