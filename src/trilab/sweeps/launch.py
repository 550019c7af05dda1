"""The way from a sweeper, which knows what to run, to a launcher, which knows where."""

from collections.abc import Sequence

from hydra.plugins.launcher import Launcher

from trilab.sweeps.outcome import Outcome
from trilab.sweeps.sweep import current


def launch(launcher: Launcher, batch: Sequence[Sequence[str]]) -> list[Outcome | None]:
    """Runs those of a batch that are not finished yet, and waits for them.

    Args:
        launcher: Hydra's.
        batch: the overrides of each run.

    Returns:
        what became of each that was launched; None of one that left no word.
    """
    sweep = current()
    if sweep is None:
        raise RuntimeError("no sweep is open: trilab train -m opens one")
    left = sweep.left(batch)
    if not left:
        return []
    first = sweep.number()
    numbers = list(range(first, first + len(left)))
    sweep.launched += numbers
    launcher.launch(left, initial_job_idx=first)
    ended = {outcome.number: outcome for outcome in sweep.outcomes()}
    return [ended.get(number) for number in numbers]
