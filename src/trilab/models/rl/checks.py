"""What an agent's settings must fulfil together. Found by `trilab.config.check`, before torch is imported."""

from collections.abc import Mapping
from typing import Any

from trilab.errors import ConfigError


def check_dqn(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where `DQN` could not work as configured.

    Args:
        values: its constructor's arguments by name.
    """
    if values["distributional"] == "c51":
        if values["v_min"] >= values["v_max"]:
            raise ConfigError(
                f"model.v_min={values['v_min']} is not below model.v_max={values['v_max']}: the atoms need a range."
            )
        if values["atoms"] < 2:
            raise ConfigError(f"model.atoms={values['atoms']}: c51 needs two atoms at least.")


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


#: By the name of the class whose arguments are checked.
CHECKS = {"DQN": check_dqn}
#: The same of a model's class, with the data's arguments beside its own.
CHECKS_WITH_DATA = {"DQN": check_dqn_on}
