"""What there is of a sweep that was launched before under the same name."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun

from trilab.config.objective import Objectives
from trilab.errors import ConfigError
from trilab.sweeps.judge import history_of, scores
from trilab.sweeps.outcome import Outcome, latest, read_all
from trilab.tracking.failures import Unreachable
from trilab.tracking.lookup import children, search
from trilab.tracking.process import is_gone, named, require_ended
from trilab.tracking.recovery import recover
from trilab.tracking.run import Run
from trilab.tracking.settings import Tracking
from trilab.tracking.spool import spool_folder
from trilab.tracking.store import connect


@dataclass(frozen=True)
class Earlier:
    """An earlier sweep; an empty one where there is none.

    Args:
        run: its own MLflow run.
        outcomes: of those of its runs that ended, of equal ones the last.
        is_known: the store has answered, so that there is none where none was found.
    """

    run: StoredRun | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    is_known: bool = True

    @property
    def finished(self) -> list[Outcome]:
        """Those of them that are not made again."""
        return [outcome for outcome in self.outcomes if outcome.status == "FINISHED"]

    @property
    def swept(self) -> list[str]:
        """The keys in which its runs differ."""
        tags = self.run.data.tags if self.run else {}
        return [key.removeprefix("swept.") for key in tags if key.startswith("swept.")]


def find_earlier(settings: Tracking, name: str, folder: Path, objectives: Objectives) -> Earlier:
    """The sweep of that name in the store; where that does not answer, what the folder holds of it.

    Args:
        settings: of the tracking.
        name: of the sweep.
        folder: with a folder for each of its runs.
        objectives: what its runs are compared by now.

    Raises:
        ConfigError: it is running, or a run of it is; or its runs are in another MLflow experiment.
    """
    try:
        client, experiment_id = connect(settings)
    except Unreachable:  # whoever opens the run says so
        return Earlier(outcomes=latest(read_all(folder)), is_known=False)
    with contextlib.suppress(Exception):  # what a killed launch could not send any more belongs to it
        recover(spool_folder(settings.spool), settings.uri)
    found = sweep_runs(client, name)
    if not found:
        return Earlier()
    run = found[0]
    tags = dict(run.data.tags)
    if run.info.experiment_id != experiment_id:
        theirs = client.get_experiment(run.info.experiment_id).name
        raise ConfigError(
            f"sweep.name={name}: the runs of that sweep are in the experiment {theirs}, and these go to "
            f"{settings.experiment_name}. Choose another name."
        )
    if run.info.status == "RUNNING" and not is_gone(tags):
        raise ConfigError(
            f"sweep.name={name}: that sweep is running, as {named(tags)}. Wait for it, stop it, or choose another name."
        )
    nested = children(client, run.info.run_id)
    require_ended(f"sweep.name={name}", nested)
    files = {outcome.run_id: outcome for outcome in read_all(folder)}
    outcomes = []
    for child in nested:
        if child.info.status in ("FINISHED", "FAILED") and "trilab.config_hash" in child.data.tags:
            known = files.get(child.info.run_id) or files.get(child.data.tags.get("trilab.local_id"))
            outcomes.append(_outcome(child, known, objectives, settings.uri))
    return Earlier(run, latest(outcomes))


def sweep_runs(client: MlflowClient, name: str | None = None) -> list[StoredRun]:
    """The MLflow runs of sweeps, the latest first: of one name, or of all."""
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    condition = "tags.`trilab.kind` = 'sweep'" + (f" and tags.`trilab.sweep` = '{name}'" if name else "")
    return sorted(search(client, everywhere, condition), key=lambda run: -run.info.start_time)


def _outcome(run: StoredRun, known: Outcome | None, objectives: Objectives, uri: str) -> Outcome:
    """What became of a run, by the file that it left or, where that is lost, by what the store has of it."""
    outcome = known or _from_store(run)
    outcome.run_id, outcome.status, outcome.pruned = run.info.run_id, run.info.status, "trilab.pruned" in run.data.tags
    goal, mode = run.data.params.get("goal.metric"), run.data.params.get("goal.mode", "min")
    wanted = objectives
    if not objectives.asked and goal is not None:  # each run's own, as `objectives_of` has it
        split = "val" if f"val/{goal}" in outcome.metrics else "test"
        wanted = Objectives({f"{split}/{goal}": mode})
    if outcome.status == "FINISHED" and outcome.objectives != dict(wanted.modes):
        outcome.objectives = dict(wanted.modes)
        outcome.scores = scores(wanted, outcome.metrics, history_of(uri, run.info.run_id))
    return outcome


def _from_store(run: StoredRun) -> Outcome:
    tags, metrics = run.data.tags, dict(run.data.metrics)
    goal = run.data.params.get("goal.metric")
    metric = next((name for name in (f"test/{goal}", f"val/{goal}") if name in metrics), None)
    ended = (run.info.end_time or run.info.start_time) / 1000
    folder = Path(tags.get("trilab.output_dir", "")).name
    return Outcome(
        number=int(folder) if folder.isdigit() else 0,
        name=run.info.run_name or "",
        hash=tags["trilab.config_hash"],
        overrides=[],
        status=run.info.status,
        metric=metric,
        mode=run.data.params.get("goal.mode", "min"),
        result=metrics[metric] if metric else None,
        metrics=metrics,
        shown=f"{metric} {metrics[metric]:.5g}" if metric else tags.get("trilab.end", ""),
        ended=ended,
        seconds=ended - run.info.start_time / 1000,
    )


def adopt(run: Run, known_as: str) -> None:
    """Nests the runs that the store took before it could tell them their parent's id."""
    with contextlib.suppress(Exception):  # the store went away again; they are found by their tag trilab.sweep
        for child in children(run.client, known_as):
            run.client.set_tag(child.info.run_id, "mlflow.parentRunId", run.id)
