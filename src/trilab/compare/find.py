"""The runs that a user names: a sweep, an MLflow experiment, or run ids."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from trilab.compare.samples import Sample, samples_of
from trilab.errors import ConfigError, nearest
from trilab.tracking.lookup import search

_RUN_ID = re.compile(r"[0-9a-f]{32}")
#: Names that a message lists.
_LISTED = 8


@dataclass(frozen=True)
class Selection:
    """What is compared.

    Args:
        title: as the user named it.
        samples: oldest first.
        left_out: how many runs, by reason.
        sweep: its own run, where one sweep alone was named.
    """

    title: str
    samples: list[Sample]
    left_out: Counter[str] = field(default_factory=Counter)
    sweep: Run | None = None

    @property
    def swept(self) -> dict[str, list[str]]:
        """The values of each key of the sweep but its seeds, in the order in which they were given."""
        tags = self.sweep.data.tags if self.sweep else {}
        found = {key.removeprefix("swept."): text.split(", ") for key, text in tags.items() if key.startswith("swept.")}
        return {key: values for key, values in found.items() if key not in ("seed", "trainer.seeds")}


def select(client: MlflowClient, names: Sequence[str], store: str) -> Selection:
    """The samples of all that is named.

    Args:
        client: of the store.
        names: of sweeps and MLflow experiments, and run ids.
        store: for messages.

    Raises:
        ConfigError: there is nothing of that name, or no finished run in it.
    """
    experiments = {found.experiment_id: found.name for found in client.search_experiments()}
    runs: list[Run] = []
    sweeps: list[Run] = []
    for name in names:
        sweep, found = _named(client, experiments, name, store)
        runs += found
        sweeps += [sweep] if sweep else []
    samples, left_out = samples_of(client, runs)
    sweep = sweeps[0] if len(names) == len(sweeps) == 1 else None
    title = sweep.data.tags["trilab.sweep"] if sweep else " ".join(names)
    if not samples:
        raise ConfigError(f"compare: no runs to compare in '{title}': {in_words(left_out) or 'it has no runs'}.")
    return Selection(title, samples, left_out, sweep)


def in_words(left_out: Counter[str]) -> str:
    """`2 running, 1 failed`"""
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)


def of_sweep(client: MlflowClient, experiment_ids: Sequence[str], sweep: Run) -> list[Run]:
    """The runs nested under a sweep's own, and those nested under these: agents of a batch of seeds."""
    condition = f"tags.`trilab.sweep` = {_quoted(sweep.data.tags['trilab.sweep'])}"
    found = search(client, experiment_ids, condition)
    own = {run.info.run_id for run in found if run.data.tags.get("mlflow.parentRunId") == sweep.info.run_id}
    return [run for run in found if {run.info.run_id, run.data.tags.get("mlflow.parentRunId")} & own]


def _named(
    client: MlflowClient, experiments: dict[str, str], name: str, store: str
) -> tuple[Run | None, Sequence[Run]]:
    """The sweep of that name, if it is one, and the runs."""
    everywhere, kind = list(experiments), "tags.`trilab.kind` = 'sweep'"
    sweeps = search(client, everywhere, f"{kind} and tags.`trilab.sweep` = {_quoted(name)}") if _quoted(name) else []
    if len(sweeps) > 1:
        each = ", ".join(f"{run.info.run_id} ({experiments[run.info.experiment_id]})" for run in sweeps)
        raise ConfigError(f"compare: several sweeps are called '{name}'. Give the run id of one: {each}.")
    if sweeps:
        return sweeps[0], of_sweep(client, everywhere, sweeps[0])
    for experiment_id, own in experiments.items():
        if own == name:
            # A test of an earlier run's checkpoint would count that run twice.
            return None, [run for run in search(client, [experiment_id]) if "trilab.source_run" not in run.data.tags]
    if _RUN_ID.fullmatch(name):
        try:
            run = client.get_run(name)
        except MlflowException:
            raise ConfigError(f"compare: no run {name} in {store}. Run ids are in the UI: trilab ui.") from None
        if run.data.tags.get("trilab.kind") == "sweep":
            return run, of_sweep(client, everywhere, run)
        members = search(client, [run.info.experiment_id], f"tags.`trilab.seed_batch` = '{name}'")
        return None, [run, *members]
    known = sorted({run.data.tags["trilab.sweep"] for run in search(client, everywhere, kind)})
    own_names = sorted(set(experiments.values()) - {"Default"})
    raise ConfigError(
        f"compare: '{name}' is no sweep, MLflow experiment or run id in {store}."
        f"{nearest(name, [*known, *own_names])} Sweeps: {_some(known)}. Experiments: {_some(own_names)}."
    )


def _quoted(name: str) -> str:
    """For MLflow's filters, which have no escapes; empty where a name cannot be quoted."""
    return f"'{name}'" if "'" not in name else f'"{name}"' if '"' not in name else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (" ..." if len(names) > _LISTED else "") if names else "none"
