"""How a sweep stands, as its store tells: from any process, while it runs and afterwards."""

import time
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run

from trilab.errors import ConfigError, nearest
from trilab.sweeps.earlier import sweep_runs
from trilab.tracking.lookup import children
from trilab.tracking.process import is_gone


@dataclass(frozen=True)
class State:
    """A sweep, and its runs by what became of them; of runs that compute the same the last counts,
    and of those with the same values that did not finish.

    Args:
        run: the sweep's own.
        nested: its runs, oldest first.
    """

    run: Run
    nested: list[Run]

    @property
    def name(self) -> str:
        return str(self.run.data.tags["trilab.sweep"])

    @property
    def is_running(self) -> bool:
        return self.run.info.status == "RUNNING" and not is_gone(dict(self.run.data.tags))

    @property
    def status(self) -> str:
        """As in MLflow; of one whose process is gone what that will be put right to."""
        return "KILLED" if self.run.info.status == "RUNNING" and not self.is_running else str(self.run.info.status)

    @property
    def done(self) -> list[Run]:
        return [run for run in self._latest if run.info.status == "FINISHED"]

    @property
    def pruned(self) -> list[Run]:
        """Those that are done for they were stopped early."""
        return [run for run in self.done if "trilab.pruned" in run.data.tags]

    @property
    def failed(self) -> list[Run]:
        return [run for run in self._latest if run.info.status == "FAILED"]

    @property
    def running(self) -> list[Run]:
        return [run for run in self._latest if run.info.status == "RUNNING" and not is_gone(dict(run.data.tags))]

    @property
    def stopped(self) -> list[Run]:
        """Those that were killed, and have not been made again."""
        others = {id(run) for run in [*self.done, *self.failed, *self.running]}
        return [run for run in self._latest if id(run) not in others]

    @property
    def total(self) -> int | None:
        """How many runs there are to be; None where the sweep has not said so yet."""
        text = self.run.data.tags.get("trilab.sweep_runs", "")
        return int(text) if text.isdigit() else None

    @property
    def to_do(self) -> int | None:
        """Runs that are neither done nor running; those that failed wait for another launch."""
        return (
            None if self.total is None else max(0, self.total - sum(map(len, (self.done, self.failed, self.running))))
        )

    @property
    def left_s(self) -> float | None:
        """How long the rest takes at the pace of this launch, in seconds; None where nothing tells."""
        started = self.run.data.tags.get("trilab.sweep_started", "")
        if not self.is_running or self.to_do is None or not started.isdigit():
            return None
        now = [run for run in [*self.done, *self.failed] if run.info.start_time >= int(started) * 1000]
        left = self.to_do + len(self.running)
        return (time.time() - int(started)) / len(now) * left if now and left else 0.0 if now else None

    @property
    def best(self) -> str:
        """The best so far, in words; empty where there is none."""
        tags, metrics = self.run.data.tags, self.run.data.metrics
        if "trilab.best" not in tags:
            return ""
        values = [f"{name.removeprefix('best/')} {value:.5g}" for name, value in metrics.items() if name[:5] == "best/"]
        chosen = [metric.split()[-1] for metric in tags.get("trilab.objectives", "").split(", ")]
        values.sort(key=lambda text: text.split()[0] not in chosen)
        shown = f" ({', '.join(values)})" if values else ""
        return f"{tags['trilab.best']}{shown}"

    @property
    def _latest(self) -> list[Run]:
        kept: list[Run] = []
        hashes, names = set(), set()
        for run in reversed(self.nested):
            identity = run.data.tags.get("trilab.config_hash", run.info.run_id)
            if identity not in hashes and (run.info.status == "FINISHED" or run.info.run_name not in names):
                kept.append(run)
            hashes.add(identity)
            names.add(run.info.run_name)
        return kept[::-1]


def state_of(client: MlflowClient, run: Run) -> State:
    """How the sweep stands that has this run of its own."""
    return State(run, sorted(children(client, run.info.run_id), key=lambda child: child.info.start_time))


def find_sweep(client: MlflowClient, name: str) -> State:
    """The sweep of that name.

    Raises:
        ConfigError: there is none.
    """
    runs = sweep_runs(client)
    found = next((run for run in runs if run.data.tags.get("trilab.sweep") == name), None)
    if found is None:
        names = list(dict.fromkeys(str(run.data.tags.get("trilab.sweep")) for run in runs))
        allowed = f" There are: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}." if names else ""
        raise ConfigError(f"'{name}': no such sweep in the store.{nearest(name, names)}{allowed}")
    return state_of(client, found)
