"""What trilab's sweepers run: every combination, some drawn at random, or what a study of Optuna asks for."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hydra.plugins.launcher import Launcher

from trilab.errors import UserError, nearest, say
from trilab.sweeps.draw import draws
from trilab.sweeps.launch import launch
from trilab.sweeps.outcome import Outcome
from trilab.sweeps.sweep import Sweep
from trilab.sweeps.trial import Trial

if TYPE_CHECKING:
    import optuna


def search_grid(sweep: Sweep, launcher: Launcher, max_batch_size: int | None) -> None:
    """Runs every combination.

    Args:
        sweep: that they belong to.
        launcher: Hydra's.
        max_batch_size: runs handed to the launcher at once; None for all.
    """
    _run(sweep, launcher, [sweep.space.overrides(values) for values in sweep.space.combinations()], max_batch_size)


def search_random(sweep: Sweep, launcher: Launcher, n_trials: int, seed: int, max_batch_size: int | None) -> None:
    """Runs combinations that are drawn at random, none twice.

    Args:
        sweep: that they belong to.
        launcher: Hydra's.
        n_trials: how many.
        seed: settles which.
        max_batch_size: runs handed to the launcher at once; None for all.
    """
    drawn = [sweep.space.overrides(values) for values in itertools.islice(draws(sweep.space, seed), n_trials)]
    if len(drawn) < n_trials:
        say(f"hydra.sweeper.n_trials={n_trials}: there are {len(drawn)} combinations, and all of them are run.")
    _run(sweep, launcher, drawn, max_batch_size)


def _run(sweep: Sweep, launcher: Launcher, batch: Sequence[Sequence[str]], max_batch_size: int | None) -> None:
    unique = list(dict.fromkeys(map(tuple, batch)))
    left = [overrides for overrides in unique if sweep.finished(overrides) is None]
    sweep.skipped = len(unique) - len(left)
    sweep.plan(len(sweep.earlier.finished) + len(left))
    size = max_batch_size or max(1, len(left))
    for start in range(0, len(left), size):
        launch(sweep, launcher, left[start : start + size])


@dataclass(frozen=True)
class StudySettings:
    """Of a search by Optuna.

    Args:
        n_trials: runs that come to something in all, those of earlier launches among them.
        parallel: trials that are asked for and run at once.
        sampler: what draws them.
        startup_trials: drawn at random before any is drawn by what came of others.
        seed: of what is drawn.
        pruner: what stops runs early.
        pruner_startup_trials: runs that the median rule lets finish first.
        pruner_warmup: validations that every run is given.
        pruner_reduction: successive halving lets one in so many go on.
        storage: of the study; None for beside MLflow's store.
    """

    n_trials: int
    parallel: int
    sampler: Literal["tpe", "cmaes", "random", "grid"]
    startup_trials: int
    seed: int
    pruner: Literal["none", "median", "halving"]
    pruner_startup_trials: int
    pruner_warmup: int
    pruner_reduction: int
    storage: str | None

    @property
    def make_pruner(self) -> dict[str, str | int]:
        """Arguments of the function of that name."""
        return {
            "kind": self.pruner,
            "startup_trials": self.pruner_startup_trials,
            "warmup": self.pruner_warmup,
            "reduction": self.pruner_reduction,
        }


def search_study(sweep: Sweep, launcher: Launcher, settings: StudySettings) -> None:
    """Runs what a study asks for, until it has had its number of trials.

    Raises:
        ConfigError: the study of that name is of something else.
        UserError: the metric is none that runs log.
    """
    from trilab.sweeps.study import ended, interrupted, study_for

    study, uri = study_for(
        settings.storage,
        sweep.run.settings.uri,
        sweep.folder,
        sweep.name,
        sweep.objectives,
        sweep.space,
        sweep.earlier,
    )
    interrupted(study)
    _Search(sweep, launcher, settings, study, uri).work(settings.n_trials - ended(study))


class _Search:
    """A study that is going on."""

    def __init__(
        self,
        sweep: Sweep,
        launcher: Launcher,
        settings: StudySettings,
        study: "optuna.Study",
        uri: str,
    ) -> None:
        self._sweep, self._launcher, self._space = sweep, launcher, sweep.space
        self._settings, self._study, self._uri = settings, study, uri
        self._prune = []
        if settings.pruner != "none":
            [metric] = sweep.objectives.modes
            node = f"{{_target_:trilab.callbacks.pruning.Pruning,monitor:'{metric}'}}"
            self._prune = [f"++callbacks.pruning={node}"]

    def work(self, left: int) -> None:
        """Asks for trials, runs them, and tells the study what came of them."""
        sweep = self._sweep
        sweep.plan(len(sweep.earlier.finished) + max(0, left))
        while left > 0:
            trials = self._ask(min(left, self._settings.parallel))
            if not trials:
                say(f"hydra.sweeper.n_trials={self._settings.n_trials}: every combination has been run.")
                sweep.plan(sweep.total - left)
                return
            outcomes = self._launch(trials)
            for trial, outcome in zip(trials, outcomes, strict=True):
                self._tell(trial, outcome)
            left -= len(trials)

    def _ask(self, count: int) -> "list[optuna.Trial]":
        from trilab.sweeps.distributions import distributions_of, value_of
        from trilab.sweeps.samplers import make_sampler
        from trilab.sweeps.study import known, waiting

        settings, study, dimensions = self._settings, self._study, self._space.dimensions
        asked = []
        for _ in range(count):
            if settings.sampler == "grid" and not waiting(study):
                taken = known(study, dimensions)
                new = (values for values in self._space.combinations() if tuple(values.items()) not in taken)
                values = next(new, None)
                if values is None:
                    break
                study.enqueue_trial({key: value_of(dimensions[key], text) for key, text in values.items()})
            number = len(study.get_trials(deepcopy=False))
            study.sampler = make_sampler(
                settings.sampler, settings.seed * 1_000_003 + number, settings.startup_trials, settings.parallel > 1
            )
            asked.append(study.ask(fixed_distributions=distributions_of(dimensions)))
        return asked

    def _launch(self, trials: "Sequence[optuna.Trial]") -> list[Outcome | None]:
        from trilab.sweeps.distributions import text_of

        batch = []
        for trial in trials:
            values = {key: text_of(own, trial.params[key]) for key, own in self._space.dimensions.items()}
            batch.append([*self._space.overrides(values), *self._prune])
        launched: set[int] = set()

        def prepare(position: int, folder: Path) -> None:
            launched.add(position)
            if self._prune:
                number = trials[position].number
                Trial(self._uri, self._study.study_name, number, self._settings.make_pruner).write(folder)

        outcomes = launch(self._sweep, self._launcher, batch, prepare)
        repeated = len(trials) - len(launched)
        if repeated:  # what the study asked for once more is known already
            self._sweep.plan(self._sweep.total - repeated)
        return outcomes

    def _tell(self, trial: "optuna.Trial", outcome: Outcome | None) -> None:
        from optuna.trial import TrialState

        if outcome is None or outcome.status != "FINISHED":
            self._study.tell(trial, state=TrialState.FAIL)
            return
        if outcome.pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
            return
        modes = self._sweep.objectives.modes
        check_logged(modes, outcome)
        values = [outcome.scores[metric] for metric in modes]
        worst = [-math.inf if mode == "max" else math.inf for mode in modes.values()]
        # A run that diverged is as bad as can be; that is worth knowing, and a NaN is no value for a study.
        told = [bad if math.isnan(value) else value for value, bad in zip(values, worst, strict=True)]
        self._study.tell(trial, told)


def check_logged(modes: Mapping[str, str], outcome: Outcome) -> None:
    """Raises UserError where a finished run has not logged what runs are to be chosen by."""
    for metric in modes:
        if metric not in outcome.scores:
            logged = sorted(outcome.metrics)
            raise UserError(
                f"sweep.metric={metric}: run {outcome.name} has finished, and has logged no such metric."
                f"{nearest(metric, logged)} Logged: {', '.join(logged)}."
            )
