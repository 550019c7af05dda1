"""Metrics of several runs that go on as one: each member's to a run of its own, their mean to the parent's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from trilab.signals import interruption
from trilab.tracking.logger import MlflowLogger
from trilab.tracking.run import Run


class BatchLogger(MlflowLogger):
    """Sends element k of a metric that is a list to member k's run.

    The parent gets its mean under the same name and the standard deviation over the members (n - 1) as `<name>_std`.
    A metric that is a number is of all members together and goes to the parent alone.

    Args:
        run: the parent, with its members.
        save_dir: the parent's local folder; checkpoints go to its `checkpoints/`.
    """

    def __init__(self, run: Run, save_dir: Path) -> None:
        super().__init__(run, save_dir)
        self.members = [MlflowLogger(member, save_dir) for member in run.members]

    @property
    def all(self) -> list[MlflowLogger]:
        return [self, *self.members]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        stopped = interruption()
        if stopped is not None:  # see MlflowLogger
            raise stopped
        of_all: dict[str, float] = {}
        of_each: list[dict[str, float]] = [{} for _ in self.members]
        for name, value in metrics.items():
            if not isinstance(value, list):
                of_all[name] = value
                continue
            for own, item in zip(of_each, value, strict=True):
                if item is not None:
                    own[name] = item
            of_all |= mean_and_spread(name, value)
        for member, own in zip(self.members, of_each, strict=True):
            if own:
                member.add(own, step or 0)
        self.add(of_all, step or 0)


def mean_and_spread(name: str, values: Sequence[float | None]) -> dict[str, float]:
    """`name` and `name_std` over the members that have a value; no standard deviation of one."""
    known = [value for value in values if value is not None]
    if not known:
        return {}
    mean = sum(known) / len(known)
    if len(known) == 1:
        return {name: mean}
    return {name: mean, f"{name}_std": (sum((value - mean) ** 2 for value in known) / (len(known) - 1)) ** 0.5}
