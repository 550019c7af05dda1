"""What observations and actions may look like, and in which type they are handed on."""

import gymnasium as gym
import numpy as np

from trilab.errors import UserError


def check_spaces(env_id: str, observation: gym.Space, action: gym.Space) -> None:
    """Refuses what no agent here can act in.

    Raises:
        UserError: actions that are not Discrete, observations that are neither Box nor Discrete.
    """
    if not isinstance(action, gym.spaces.Discrete):
        raise UserError(
            f"{env_id} has the action space {action}: value-based agents need a Discrete one, "
            "as in CartPole-v1, Acrobot-v1 or LunarLander-v3."
        )
    if not isinstance(observation, gym.spaces.Box | gym.spaces.Discrete):
        raise UserError(
            f"{env_id} has the observation space {observation}: only Box (an array of one shape) and Discrete (the "
            "number of a state) are supported; register the environment with a flattening wrapper."
        )


def observation_dtype(space: gym.Space) -> type[np.generic]:
    """uint8 for images, int64 for the number of a state, float32 for everything else."""
    if isinstance(space, gym.spaces.Discrete):
        return np.int64
    return np.uint8 if space.dtype == np.uint8 else np.float32


def start(space: gym.Space) -> int:
    """The lowest number of a Discrete space, which agents count from 0; 0 for any other."""
    return int(space.start) if isinstance(space, gym.spaces.Discrete) else 0
