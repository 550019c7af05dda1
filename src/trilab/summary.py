"""The end of a run as a person reads it: what was run, the result against its goal, speed, where it is, what next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from trilab.console import program, show


@dataclass
class Summary:
    """What `summary.json` holds and the table at the end shows."""

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
    def result(self) -> float | None:
        """The goal's metric on the test, or on validation where there was no test."""
        metric = self.goal["metric"]
        return self.metrics.get(f"test/{metric}", self.metrics.get(f"val/{metric}"))

    @property
    def reached(self) -> bool | None:
        """Whether the goal's threshold was reached; None where there is none, or no result."""
        threshold, result = self.goal["threshold"], self.result
        if threshold is None or result is None:
            return None
        return result >= threshold if self.goal["mode"] == "max" else result <= threshold

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "result": self.result, "goal_reached": self.reached}


def show_summary(summary: Summary) -> None:
    """Prints the table."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("ran", f"{summary.experiment}  (model {summary.model}, data {summary.data}, seed {summary.seed})")
    table.add_row("on", f"{summary.accelerator}, {summary.precision}")
    for warning in summary.warnings:
        table.add_row("note", warning)
    table.add_row("result", _result(summary))
    for name, value in summary.reference.items():
        table.add_row("", f"{name} {value:.4f}")
    table.add_row("speed", _speed(summary.metrics))
    table.add_row("run", summary.run_id)
    table.add_row("in", summary.store)
    for row, command in enumerate(next_commands(summary)):
        table.add_row("" if row else "next", command)
    show("", table)


def one_line(summary: Summary) -> str:
    """The run in one line, for sweeps."""
    return f"{_result(summary, with_source=False)}  ·  {_speed(summary.metrics)}  ·  run {summary.run_id}"


def show_sweep(outcomes: Sequence[tuple[Sequence[str], Summary | Exception]]) -> None:
    """Prints a row for each run of a sweep: what it was swept over, and its result or why it failed.

    Args:
        outcomes: the overrides of each run, and what became of it.
    """
    common = set.intersection(*(set(overrides) for overrides, _ in outcomes))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("run", "result", "speed", "MLflow run"):
        table.add_column(column, overflow="fold")
    for overrides, outcome in outcomes:
        swept = " ".join(text for text in overrides if text not in common) or "-"
        if isinstance(outcome, Summary):
            result = _result(outcome, with_source=False)
            table.add_row(swept, result, _speed(outcome.metrics, with_memory=False), outcome.run_id)
        else:
            table.add_row(swept, f"failed: {' '.join(str(outcome).split())[:120]}", "", "")
    failed = sum(isinstance(outcome, Exception) for _, outcome in outcomes)
    show("", table, "", f"{len(outcomes) - failed} of {len(outcomes)} runs finished, {failed} failed")


def next_commands(summary: Summary) -> list[str]:
    """What one would do now."""
    trilab = program()
    again = f"{trilab} train -m experiment={summary.experiment}"
    return [f"{trilab} ui", f"{again} seed=1,2,3", f"{again} precision=fp32,bf16-mixed"]


def _result(summary: Summary, with_source: bool = True) -> str:
    metric, threshold = summary.goal["metric"], summary.goal["threshold"]
    split = "test" if f"test/{metric}" in summary.metrics else "val"
    if summary.result is None:
        return f"no {metric}: nothing was evaluated"
    text = f"{split}/{metric} {summary.result:.5g}"
    spread = summary.metrics.get(f"{split}/{metric.replace('_mean', '_std')}") if metric.endswith("_mean") else None
    if spread is not None:
        text += f" (std {spread:.4g})"
    if summary.reached is None:
        return text
    sign = ">=" if summary.goal["mode"] == "max" else "<="
    verdict = "reached" if summary.reached else "missed"
    source = f" ({summary.goal['source']})" if with_source and summary.goal["source"] else ""
    return f"{text}: goal {sign} {threshold:g} {verdict}{source}"


def _speed(metrics: Mapping[str, float], with_memory: bool = True) -> str:
    parts = [
        f"{value:,.0f} {name.removeprefix('perf/').removesuffix('_per_s').replace('_', ' ')}/s"
        for name, value in metrics.items()
        if name.startswith("perf/") and name.endswith("_per_s")
    ]
    if "perf/fit_s" in metrics:
        parts.append(f"fit {metrics['perf/fit_s']:.1f} s")
    if with_memory and "perf/peak_memory_mb" in metrics:
        parts.append(f"peak {metrics['perf/peak_memory_mb']:,.0f} MiB")
    return ", ".join(parts) or "nothing was trained"
