"""The end of a sweep as a person reads it: a row for each run, and the best of them."""

from collections.abc import Sequence

from rich.table import Table

from trilab.console import show
from trilab.sweeps.outcome import Outcome, winners

#: Longest reason of a failure in a row; the whole of it is in the run.
_REASON = 200


def show_sweep(outcomes: Sequence[Outcome], skipped: int = 0) -> None:
    """Prints what each run was swept over, and its result or why it failed.

    Args:
        outcomes: of all its runs that have ended, now or when it was launched before.
        skipped: how many of them were finished before.
    """
    if not outcomes:
        return
    found = winners(outcomes) if len(outcomes) > 1 else []
    metrics = list(dict.fromkeys(metric for outcome in outcomes for metric in outcome.objectives))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("run", *metrics, "result", "speed", "MLflow run"):
        table.add_column(column, overflow="fold")
    for outcome in outcomes:
        table.add_row(
            f"{outcome.name}{' *' if outcome in found else ''}",
            *(f"{outcome.scores[metric]:.5g}" if metric in outcome.scores else "" for metric in metrics),
            _result(outcome),
            outcome.speed,
            outcome.run_id or "",
        )
    show("", table, "", *_lines(outcomes, found, skipped))


def _result(outcome: Outcome) -> str:
    if outcome.status != "FINISHED":
        return f"failed: {outcome.shown[:_REASON]}"
    return "pruned" if outcome.pruned else outcome.shown


def _lines(outcomes: Sequence[Outcome], found: Sequence[Outcome], skipped: int) -> list[str]:
    failed = sum(outcome.status != "FINISHED" for outcome in outcomes)
    pruned = sum(outcome.pruned for outcome in outcomes)
    before = f", {skipped} of them before" if skipped else ""
    stopped = f", {pruned} of them pruned" if pruned else ""
    lines = [f"{len(outcomes) - failed} of {len(outcomes)} runs finished{before}{stopped}, {failed} failed"]
    if len(found) == 1:
        by_test = "" if not any(name.startswith("test/") for name in found[0].objectives) else _BY_TEST
        lines.append(f"* best: {found[0].name}, {found[0].words}{by_test}")
    elif found:
        lines.append(f"* {len(found)} runs that no other is better than in everything:")
        lines += [f"  {outcome.name}, {outcome.words}" for outcome in found]
    return lines


_BY_TEST = " (chosen by the test itself, so that the value is too good)"
