"""The end of a run as a person reads it: what was run, the result against its goal, speed, where it is, what next."""

from collections.abc import Mapping

import numpy as np
from rich.table import Table

from trilab.console import program, show
from trilab.statistics import interquartile_mean
from trilab.summary import BatchSummary, Summary


def show_summary(summary: Summary | BatchSummary) -> None:
    """Prints a table of a run; above it one with a row for each agent where several were trained at once."""
    if isinstance(summary, BatchSummary):
        seeds = f"seeds {', '.join(str(member.seed) for member in summary.members)}"
        _show_members(summary)
        result, summary = _batch_result(summary), summary.whole
    else:
        seeds, result = f"seed {summary.seed}", _result(summary)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("ran", f"{summary.experiment}  (model {summary.model}, data {summary.data}, {seeds})")
    table.add_row("on", f"{summary.accelerator}, {summary.precision}")
    for warning in summary.warnings:
        table.add_row("note", warning)
    table.add_row("result", result)
    for name, value in summary.reference.items():
        table.add_row("", f"{name} {value:.4f}")
    table.add_row("speed", _speed(summary.metrics))
    table.add_row("run", summary.run_id)
    table.add_row("in", summary.store)
    for row, command in enumerate(next_commands(summary)):
        table.add_row("" if row else "next", command)
    show("", table)


def _show_members(summary: BatchSummary) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("seed", "result", "MLflow run"):
        table.add_column(column, overflow="fold")
    for member in summary.members:
        table.add_row(str(member.seed), _result(member, with_source=False), member.run_id)
    show("", table)


def next_commands(summary: Summary) -> list[str]:
    """What one would do now."""
    trilab = program()
    again = f"{trilab} train -m experiment={summary.experiment}"
    seeds = f"{again} seed=1,2,3"
    if summary.model.startswith("rl/"):
        seeds = f"{trilab} train experiment={summary.experiment} trainer.seeds=[1,2,3]"
    return [f"{trilab} ui", seeds, f"{again} precision=fp32,bf16-mixed"]


def _whole(summary: Summary | BatchSummary) -> Summary:
    return summary.whole if isinstance(summary, BatchSummary) else summary


def short_speed(summary: Summary | BatchSummary, with_memory: bool = False) -> str:
    """How fast it was, in a few words."""
    return _speed(_whole(summary).metrics, with_memory)


def short_result(summary: Summary | BatchSummary) -> str:
    """The goal's metric, and whether the goal was reached."""
    if isinstance(summary, BatchSummary):
        return _batch_result(summary, with_source=False)
    return _result(summary, with_source=False)


def _batch_result(summary: BatchSummary, with_source: bool = True) -> str:
    results, whole = summary.results, summary.whole
    if not results:
        return f"no {whole.goal['metric']}: nothing was evaluated"
    text = (
        f"{whole.split}/{whole.goal['metric']} of {len(results)} agents: mean {summary.result:.5g}, interquartile mean "
        f"{interquartile_mean(np.array(results)):.5g}, {results[0]:.5g} to {results[-1]:.5g}"
    )
    if summary.reached is None:
        return text
    return f"{text}: {_verdict(whole, f'reached by {summary.reached} of {len(summary.members)}', with_source)}"


def _verdict(summary: Summary, verdict: str, with_source: bool) -> str:
    sign = ">=" if summary.goal["mode"] == "max" else "<="
    source = f" ({summary.goal['source']})" if with_source and summary.goal["source"] else ""
    return f"goal {sign} {summary.goal['threshold']:g} {verdict}{source}"


def _result(summary: Summary, with_source: bool = True) -> str:
    metric, split = summary.goal["metric"], summary.split
    if summary.result is None:
        return f"no {metric}: nothing was evaluated"
    text = f"{split}/{metric} {summary.result:.5g}"
    spread = summary.metrics.get(f"{split}/{metric.replace('_mean', '_std')}") if metric.endswith("_mean") else None
    if spread is not None:
        text += f" (std {spread:.4g})"
    if summary.reached is None:
        return text
    return f"{text}: {_verdict(summary, 'reached' if summary.reached else 'missed', with_source)}"


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
