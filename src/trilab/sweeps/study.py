"""A search as a study of Optuna, in a store of its own, so that it can be gone on with and others can report to it.

Akiba et al. 2019, Optuna: A Next-generation Hyperparameter Optimization Framework (https://arxiv.org/abs/1907.10902).

Only `trilab.sweeps` imports this, and only where a search runs: Optuna takes a moment to load.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from trilab.config.objective import Objectives
from trilab.config.space import Dimension, Space
from trilab.errors import ConfigError, UserError
from trilab.sweeps.distributions import distributions_of, text_of, written
from trilab.sweeps.earlier import Earlier
from trilab.sweeps.samplers import make_pruner
from trilab.sweeps.trial import Trial
from trilab.tracking.secrets import redacted
from trilab.tracking.settings import sqlite_path

optuna.logging.set_verbosity(optuna.logging.WARNING)  # the sweep says what runs
# Of the names of metrics, and of TPE in parallel; both are years old.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

#: Longest wait for another process that writes to an SQLite store, in seconds.
_WAIT_S = 60


def storage_uri(given: str | None, tracking_uri: str, folder: Path) -> str:
    """Where the study is kept.

    Args:
        given: by the user.
        tracking_uri: MLflow's store. The study is beside it, where that is a file.
        folder: of the sweep, where the study is otherwise.
    """
    if given:
        return given
    database = sqlite_path(tracking_uri)
    return f"sqlite:///{database.with_name('optuna.db') if database else (folder / 'optuna.db').absolute()}"


def study_for(
    storage: str | None,
    tracking_uri: str,
    folder: Path,
    name: str,
    objectives: Objectives,
    space: Space,
    earlier: Earlier,
) -> tuple[optuna.Study, str]:
    """The study of a sweep, made if it is new, and the URI of its store.

    Args:
        storage: where the user wants it.
        tracking_uri: MLflow's store.
        folder: of the sweep.
        name: of the sweep.
        objectives: what is minimised or maximised.
        space: what is varied.
        earlier: what MLflow knows of the sweep.

    Raises:
        ConfigError: the study is another sweep's, of other metrics, or varied something else.
        UserError: its store cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uri = storage_uri(storage, tracking_uri, folder)
    study = open_study(uri, name, objectives.modes, is_new=earlier.is_known and earlier.run is None)
    check_space(study, distributions_of(space.dimensions))
    return study, uri


def open_study(uri: str, name: str, modes: Mapping[str, str], is_new: bool) -> optuna.Study:
    """The study of a sweep, made if it is new.

    Args:
        uri: of its store.
        name: of the sweep.
        modes: what is minimised or maximised.
        is_new: MLflow knows no earlier sweep of that name.

    Raises:
        ConfigError: the study is another sweep's, or of other metrics.
        UserError: the store cannot be used.
    """
    directions: list[Literal["minimize", "maximize"]] = [
        "maximize" if mode == "max" else "minimize" for mode in modes.values()
    ]
    try:
        study = optuna.create_study(
            storage=_storage(uri), study_name=name, directions=directions, load_if_exists=True, sampler=RandomSampler()
        )
    except (SQLAlchemyError, OSError, ImportError, ValueError) as error:
        raise UserError(f"Cannot use Optuna's store {redacted(uri)}: {_reason(error)}") from error
    if is_new and study.get_trials(deepcopy=False):
        raise ConfigError(
            f"sweep.name={name}: the store of MLflow has no sweep of that name, and Optuna's, {redacted(uri)}, has its "
            "study. Choose another name, or another hydra.sweeper.storage."
        )
    if [direction.name.lower() for direction in study.directions] != directions or (
        study.metric_names is not None and study.metric_names != list(modes)
    ):
        known = study.metric_names or [direction.name.lower() for direction in study.directions]
        raise ConfigError(
            f"sweep.name={name}: that study is of {', '.join(known)}, and sweep.metric is now {', '.join(modes)}. "
            "Choose another name for another metric."
        )
    study.set_metric_names(list(modes))
    return study


def _storage(uri: str) -> RDBStorage:
    options = {"connect_args": {"timeout": _WAIT_S}} if uri.startswith("sqlite") else {}
    return RDBStorage(uri, engine_kwargs=options)


def _reason(error: Exception) -> str:
    return redacted(" ".join(str(error).partition("[SQL:")[0].split()))[:300]


def check_space(study: optuna.Study, distributions: Mapping[str, BaseDistribution]) -> None:
    """Raises ConfigError where the study varied other keys, or drew from values that Optuna cannot mix with these."""
    for trial in study.get_trials(deepcopy=False):
        if not trial.distributions:
            continue
        other = sorted(set(trial.distributions) ^ set(distributions))
        if other:
            raise ConfigError(
                f"sweep.name={study.study_name}: {other[0]} is varied {'now' if other[0] in distributions else 'there'}"
                " alone. A study goes on with the keys that it began with; choose another name."
            )
        for key, distribution in trial.distributions.items():
            try:
                check_distribution_compatibility(distribution, distributions[key])
            except ValueError:
                raise ConfigError(
                    f"sweep.name={study.study_name}: {key} was drawn from {written(distribution)} there, which Optuna "
                    f"cannot mix with {written(distributions[key])}. Choose another name."
                ) from None


def report(trial: Trial, step: int, value: float) -> bool:
    """Tells a study of a validation of one of its runs; whether that is to stop.

    Args:
        trial: the run's part in the study.
        step: how many validations there were, from 1.
        value: of the metric. A NaN stops the run, whatever the pruner.
    """
    pruner = make_pruner(**trial.pruner)  # type: ignore[arg-type]
    study = optuna.load_study(
        study_name=trial.study, storage=_storage(trial.storage), pruner=pruner, sampler=RandomSampler()
    )
    own = study.get_trials(deepcopy=False)[trial.number]
    running = optuna.Trial(study, own._trial_id)
    running.report(value, step)
    return math.isnan(value) or running.should_prune()


def interrupted(study: optuna.Study) -> None:
    """Fails what a killed process left as running, and has what failed tried once more, first of all.

    Nobody else has this study open: the sweep is refused where its process lives.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    latest = {_key(trial.params): trial for trial in study.get_trials(deepcopy=False) if trial.distributions}
    fixed = {_key(trial.system_attrs.get("fixed_params", {})) for trial in waiting(study)}
    for key, trial in latest.items():
        if trial.state is TrialState.FAIL and key not in fixed:
            study.enqueue_trial(trial.params)


def waiting(study: optuna.Study) -> Sequence[optuna.trial.FrozenTrial]:
    """Trials whose values are known and that were not asked for yet."""
    return study.get_trials(deepcopy=False, states=(TrialState.WAITING,))


def ended(study: optuna.Study) -> int:
    """How many trials have come to something; one that failed is made again."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def known(study: optuna.Study, dimensions: Mapping[str, Dimension]) -> set[tuple[tuple[str, str], ...]]:
    """The values of every trial there is, as they are written in overrides."""
    found = set()
    for trial in study.get_trials(deepcopy=False):
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        if set(params) == set(dimensions):
            found.add(tuple((key, text_of(dimensions[key], params[key])) for key in dimensions))
    return found


def _key(params: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(params.items()))
