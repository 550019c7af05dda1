"""The way from a sweeper, which knows what to run, to a launcher, which knows where."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.plugins.launcher import Launcher

from trilab.sweeps.outcome import Outcome
from trilab.sweeps.sweep import Sweep


def launch(
    sweep: Sweep,
    launcher: Launcher,
    batch: Sequence[Sequence[str]],
    prepare: Callable[[int, Path], None] | None = None,
) -> list[Outcome | None]:
    """Runs those of a batch that are not finished yet, and waits for them.

    Args:
        sweep: that they belong to.
        launcher: Hydra's.
        batch: the overrides of each run.
        prepare: called before the launch with the position in the batch and the folder of each run that is launched.

    Returns:
        what became of each, now or before; None of one that left no word.
    """
    found = [sweep.finished(overrides) for overrides in batch]
    left: dict[tuple[str, ...], int] = {}  # equal ones run once
    for position, (overrides, outcome) in enumerate(zip(batch, found, strict=True)):
        if outcome is None:
            left.setdefault(tuple(overrides), position)
    if left:
        first = sweep.number()
        for number, (overrides, position) in enumerate(left.items(), first):
            sweep.numbers[overrides] = number
            if prepare is not None:
                prepare(position, sweep.folder / str(number))
        launcher.launch([list(overrides) for overrides in left], initial_job_idx=first)
    return [
        outcome or sweep.outcome(sweep.numbers[tuple(overrides)])
        for overrides, outcome in zip(batch, found, strict=True)
    ]
