"""What the data's settings must fulfil together. Found by `trilab.config.check`, before torch is imported."""

from collections.abc import Mapping
from typing import Any

from trilab.data.rl.arcade import game_of
from trilab.data.rl.environment import check_environment
from trilab.data.rl.spec import FIRST_TRAINING_SEED
from trilab.errors import ConfigError, UserError


def check_gymnasium_data(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where `GymnasiumData` could not work as configured.

    Args:
        values: its constructor's arguments by name.
    """
    try:
        check_environment(values["env_id"], values["env_kwargs"], values["max_episode_steps"])
    except UserError as error:  # found this early, it is the configuration's
        raise ConfigError(str(error)) from None
    check_experience(values)


def check_atari_data(values: Mapping[str, Any]) -> None:
    """The same of `AtariData`."""
    game_of(values["env_id"])
    check_experience(values)


def check_experience(values: Mapping[str, Any]) -> None:
    """What both must fulfil."""
    if values["learning_starts"] >= values["total_env_steps"]:
        raise ConfigError(
            f"data.learning_starts={values['learning_starts']} is not below data.total_env_steps="
            f"{values['total_env_steps']}: learning would never start."
        )
    for name in ("learning_starts", "batch_size"):
        if values[name] > values["replay_capacity"]:
            raise ConfigError(
                f"data.{name}={values[name]} is above data.replay_capacity={values['replay_capacity']}: "
                "the replay would never hold enough."
            )
    if values["env_steps_per_iteration"] < values["num_envs"]:
        raise ConfigError(
            f"data.env_steps_per_iteration={values['env_steps_per_iteration']} is below data.num_envs="
            f"{values['num_envs']}: one step of all environments has to fit in."
        )
    if values["env_steps_per_epoch"] % values["env_steps_per_iteration"]:
        raise ConfigError(
            f"data.env_steps_per_epoch={values['env_steps_per_epoch']} must be a multiple of "
            f"data.env_steps_per_iteration={values['env_steps_per_iteration']}."
        )
    val = range(values["val_seed"], values["val_seed"] + values["val_episodes"])
    test = range(values["test_seed"], values["test_seed"] + values["test_episodes"])
    if max(val.start, test.start) < min(val.stop, test.stop) or max(val.stop, test.stop) > FIRST_TRAINING_SEED:
        raise ConfigError(
            f"validation plays the seeds {val.start}..{val.stop - 1}, test {test.start}..{test.stop - 1}: "
            f"they must not overlap, nor reach {FIRST_TRAINING_SEED}, where training begins."
        )


#: By the name of the class whose arguments are checked.
CHECKS = {"GymnasiumData": check_gymnasium_data, "AtariData": check_atari_data}
