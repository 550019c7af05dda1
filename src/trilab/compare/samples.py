"""What a comparison counts: finished runs, and each agent of a batch of seeds."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Run

#: MLflow stores an infinity as the largest float64.
_INFINITE = 1.7e308


@dataclass(frozen=True)
class Sample:
    """One trained model.

    Args:
        run_id: of its own run.
        params: its configuration, flattened.
        tags: of its run.
        metrics: the last value of each.
        started: when, in seconds since 1970.
        fit_began: likewise, its last fit; None where that was not logged.
        ended: likewise.
        process: id of the run whose speed and memory are its own: itself, or the batch that it was trained in.
        measured: metrics of that run.
        agents: how many were trained in that process at once.
    """

    run_id: str
    params: Mapping[str, str] = field(repr=False)
    tags: Mapping[str, str] = field(repr=False)
    metrics: Mapping[str, float] = field(repr=False)
    started: float = 0.0
    ended: float = 0.0
    fit_began: float | None = None
    process: str = ""
    measured: Mapping[str, float] = field(default_factory=dict, repr=False)
    agents: int = 1

    @property
    def seed(self) -> str:
        return self.params.get("seed", "")

    @property
    def data(self) -> str:
        return self.tags.get("trilab.data", "")

    @property
    def goal(self) -> tuple[str, str]:
        """What its experiment is judged by, and which way of it is better; empty where it does not say."""
        return self.params.get("goal.metric", ""), self.params.get("goal.mode", "")

    @property
    def by_agent(self) -> bool:
        """Whether it learnt from rewards: interquartile means are then what is reported."""
        return self.tags.get("trilab.model", "").startswith("rl/")

    def metric(self, name: str) -> float | None:
        """The last value, which may be NaN or infinite; None where it was never logged."""
        value = self.metrics.get(name, self.measured.get(name) if name.startswith("perf/") else None)
        if value is not None and abs(value) > _INFINITE:
            return float("inf") if value > 0 else float("-inf")
        return value


def samples_of(client: MlflowClient, runs: Iterable[Run]) -> tuple[list[Sample], Counter[str]]:
    """The samples among some runs, oldest first, and how many runs were left out for each reason.

    A sweep's own run, and that of a batch of seeds, which holds the means of its members, are no samples, and are not
    counted as left out either.
    """
    by_id = {run.info.run_id: run for run in runs}
    parents = {run.data.tags["trilab.seed_batch"] for run in by_id.values() if "trilab.seed_batch" in run.data.tags}
    batches = {run_id: by_id.get(run_id) or client.get_run(run_id) for run_id in parents}
    left_out: Counter[str] = Counter()
    samples = []
    for run in sorted(by_id.values(), key=lambda run: (run.info.start_time, run.info.run_id)):
        if run.data.tags.get("trilab.kind") == "sweep" or run.info.run_id in batches or _is_batch(run):
            continue
        if run.info.status != "FINISHED":
            left_out[run.info.status.lower()] += 1
        elif "trilab.pruned" in run.data.tags:  # stopped early, for others were better: its scores are of that moment
            left_out["pruned"] += 1
        elif "trilab.model" not in run.data.tags:
            left_out["not made by trilab train"] += 1
        else:
            process = batches.get(run.data.tags.get("trilab.seed_batch", ""), run)
            samples.append(_sample(run, process))
    return samples, left_out


def _is_batch(run: Run) -> bool:
    return "," in run.data.params.get("trainer.seeds", "")


def _sample(run: Run, process: Run) -> Sample:
    return Sample(
        run_id=run.info.run_id,
        params=run.data.params,
        tags={**process.data.tags, **run.data.tags},
        metrics=run.data.metrics,
        started=run.info.start_time / 1000,
        ended=(run.info.end_time or run.info.start_time) / 1000,
        process=process.info.run_id,
        measured=process.data.metrics,
        fit_began=_fit_began(process),
        agents=process.data.params.get("trainer.seeds", "").count(",") + 1,
    )


def _fit_began(run: Run) -> float | None:
    """What is logged at the end of a fit is how long it took."""
    found = [metric for metric in run.data._metric_objs if metric.key == "perf/fit_s"]
    return found[0].timestamp / 1000 - found[0].value if found else None
