"""Metrics of several runs that go on as one: each member's to a run of its own, their mean to the parent's."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from trilab.signals import interruption
from trilab.tracking.logger import MlflowLogger

#: Sending may cost one part in so many of the time. A request takes 4 ms on SQLite, and every run needs its own.
_SHARE = 100


class BatchLogger(MlflowLogger):
    """Sends element k of a metric that is a list to member k's run.

    The parent gets its mean under the same name and the standard deviation over the members (n - 1) as `<name>_std`.
    A metric that is a number is of all members together and goes to the parent alone.

    Args:
        client: of the store.
        run_id: of the parent, an open run.
        member_ids: of the members' open runs.
        save_dir: the parent's local folder; checkpoints go to its `checkpoints/`.
        flush_s: time that a metric waits, in seconds; more where sending would take over a hundredth of the time.
    """

    def __init__(
        self, client: MlflowClient, run_id: str, member_ids: Sequence[str], save_dir: Path, flush_s: float
    ) -> None:
        super().__init__(client, run_id, save_dir, flush_s)
        self.members = [MlflowLogger(client, member_id, save_dir, flush_s) for member_id in member_ids]
        self._sending_s = 0.0

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
            member.add(own, step or 0)
        self.add(of_all, step or 0)
        if time.monotonic() - self._last_flush > max(self._flush_s, _SHARE * self._sending_s):
            self.flush()

    def flush(self) -> None:
        """Sends everything that waits."""
        start = time.monotonic()
        for member in self.members:
            member.flush()
        super().flush()
        self._sending_s = time.monotonic() - start


def mean_and_spread(name: str, values: Sequence[float | None]) -> dict[str, float]:
    """`name` and `name_std` over the members that have a value; no standard deviation of one."""
    known = [value for value in values if value is not None]
    if not known:
        return {}
    mean = sum(known) / len(known)
    if len(known) == 1:
        return {name: mean}
    return {name: mean, f"{name}_std": (sum((value - mean) ** 2 for value in known) / (len(known) - 1)) ** 0.5}
