"""A study's numbers as tables: one of every model on every environment, one of each model against the baseline."""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

from trilab.reports.page import Rows
from trilab.reports.rl_runs import Agent, curve, paired_scores, scores
from trilab.statistics import bootstrap, difference, probability_of_improvement

Groups = Mapping[str, Mapping[str, Sequence[Agent]]]


def results(groups: Groups) -> Rows:
    """A row for each environment and model."""
    rows = []
    for environment, models in groups.items():
        for model, agents in models.items():
            returns = scores(agents)
            threshold = agents[0].threshold
            speeds = [a.env_steps_per_s for a in agents if a.env_steps_per_s is not None]
            rows.append(
                {
                    "environment": environment,
                    "model": model,
                    "seeds": str(len(agents)),
                    "test return, IQM [95% CI]": str(bootstrap([returns])),
                    "median": f"{np.median(returns):.4g}",
                    "min to max": f"{returns.min():.4g} to {returns.max():.4g}",
                    "solved": "" if threshold is None else f"{(returns >= threshold).sum()} of {len(agents)}",
                    "threshold": "" if threshold is None else f"{threshold:g}",
                    "env steps to it, median": _steps_to_threshold(agents, threshold),
                    "return over the training, IQM [95% CI]": _over_training(agents, "val/return_mean"),
                    "overestimation, IQM [95% CI]": _over_training(agents, "val/overestimation"),
                    "env steps/s": f"{np.median(speeds):,.0f}" if speeds else "",
                    "agents at once": "/".join(str(n) for n in sorted({a.agents for a in agents})),
                }
            )
    return rows


def _over_training(agents: Sequence[Agent], metric: str) -> str:
    """Of the mean over all validations of a training: of returns, the area under the learning curve by its length."""
    found = curve(agents, metric)
    return "" if found is None else str(bootstrap([found[1].mean(1)]))


def _steps_to_threshold(agents: Sequence[Agent], threshold: float | None) -> str:
    """Environment steps to the first validation at the threshold; agents that never reached it count as infinite."""
    found = curve(agents, "val/return_mean")
    if threshold is None or found is None:
        return ""
    steps, returns = found
    reached = returns >= threshold
    first = np.where(reached.any(1), steps[reached.argmax(1)], np.inf)
    median = np.median(first)
    return f"{median:,.0f}" if np.isfinite(median) else "not reached"


def comparisons(groups: Groups, baseline: str) -> Rows:
    """A row for each environment and model but the baseline, and one for each model on all environments together."""
    rows: Rows = []
    both: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for environment, models in groups.items():
        if baseline not in models:
            continue
        base = models[baseline]
        for model, agents in models.items():
            if model == baseline:
                continue
            pair = paired_scores(agents, base)
            own, other = scores(agents), scores(base)
            both.setdefault(model, []).append((own, other))
            rows.append(
                {
                    "environment": environment,
                    "model": model,
                    f"test return less {baseline}'s, IQM [95% CI]": str(difference(own, other, paired=pair)),
                    f"P(better than {baseline}) [95% CI]": str(probability_of_improvement([own], [other])),
                    f"return over the training less {baseline}'s, IQM [95% CI]": _less_over_training(
                        agents, base, "val/return_mean", pair
                    ),
                    f"overestimation less {baseline}'s, IQM [95% CI]": _less_over_training(
                        agents, base, "val/overestimation", pair
                    ),
                    "seeds": "the same" if pair else "different",
                }
            )
    for model, tasks in both.items():
        if len(tasks) > 1:
            first, second = zip(*tasks, strict=True)
            better = str(probability_of_improvement(first, second))
            empty = dict.fromkeys(rows[0], "")
            rows.append({**empty, "environment": "all", "model": model, f"P(better than {baseline}) [95% CI]": better})
    return rows


def _less_over_training(agents: Sequence[Agent], base: Sequence[Agent], metric: str, paired: bool) -> str:
    """Of the difference between the means over all validations."""
    own, other = curve(agents, metric), curve(base, metric)
    if own is None or other is None:
        return ""
    return str(difference(own[1].mean(1), other[1].mean(1), paired=paired))


def comma_separated(agents: Sequence[Agent]) -> str:
    """Every agent in a row of its own, so that others can compute what they like."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["environment", "model", "seed", "test_return_mean", "threshold", "env_steps_per_s", "run_id"])
    for a in sorted(agents, key=lambda a: (a.environment, a.model, a.seed)):
        writer.writerow([a.environment, a.model, a.seed, a.test_return, a.threshold, a.env_steps_per_s, a.run_id])
    return out.getvalue()
