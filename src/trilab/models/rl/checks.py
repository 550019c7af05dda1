"""What an agent's settings must fulfil together. Found by `trilab.config.check`, before torch is imported."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from trilab.errors import ConfigError

#: What the model tells its network, and where a user says it.
SUPPLIED_TO_NETWORK = {
    "spec": "data.*",
    "atoms": "model.atoms",
    "dueling": "model.dueling",
    "dueling_rescale": "model.dueling_rescale",
    "noisy": "model.noisy",
    "noisy_sigma": "model.noisy_sigma",
}


def check_dqn(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where `DQN` could not work as configured.

    Args:
        values: its constructor's arguments by name.
    """
    network = values["network"]
    for name, instead in SUPPLIED_TO_NETWORK.items():
        if isinstance(network, Mapping) and name in network:
            raise ConfigError(f"model.network.{name}: set by the model itself; use {instead} instead.")
    if values["distributional"] != "none" and values["atoms"] < 2:
        raise ConfigError(f"model.atoms={values['atoms']}: {values['distributional']} needs two at least.")
    if values["distributional"] == "c51" and values["v_min"] >= values["v_max"]:
        raise ConfigError(
            f"model.v_min={values['v_min']} is not below model.v_max={values['v_max']}: the atoms need a range."
        )


def check_dqn_on(values: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """The same of the model and the data together.

    Args:
        values: the model's arguments by name.
        data: the data's.
    """
    ring = data["replay_capacity"] // data["num_envs"]
    if values["n_step"] >= ring:
        raise ConfigError(
            f"model.n_step={values['n_step']} is not below data.replay_capacity / data.num_envs = {ring}: "
            "no transition of so many steps would ever be held."
        )


def check_piecewise_epsilon(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where the points of `PiecewiseEpsilon` are no line over the budget."""
    points = values["points"]
    shown = f"model.epsilon.points={[list(point) for point in points]}"
    if not points or any(len(point) != 2 for point in points):
        raise ConfigError(
            f"{shown}: expected pairs of a share of the budget and epsilon, such as [[0, 1], [0.5, 0.1]]."
        )
    if not all(0.0 <= number <= 1.0 for point in points for number in point):
        raise ConfigError(f"{shown}: expected shares and epsilons from 0 to 1.")
    if any(after[0] <= before[0] for before, after in pairwise(points)):
        raise ConfigError(f"{shown}: expected shares of the budget that increase from point to point.")


#: By the name of the class whose arguments are checked.
CHECKS = {"DQN": check_dqn, "PiecewiseEpsilon": check_piecewise_epsilon}
#: The same of a model's class, with the data's arguments beside its own.
CHECKS_WITH_DATA = {"DQN": check_dqn_on}
