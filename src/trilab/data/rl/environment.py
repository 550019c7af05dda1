"""Vector environments by Gymnasium id, and one meaning of "step" for all their autoreset modes.

A vector environment starts a new episode in one of three ways (https://farama.org/Vector-Autoreset-Mode), and each
hides a trap for whoever stores transitions (s, a, r, s'):

- NEXT_STEP: the step after an episode's end only resets; its action is ignored, and it is no transition.
- SAME_STEP: the observation returned at an episode's end is already the next episode's first; the true s' is
  `infos["final_obs"]`.
- DISABLED: nothing happens until the finished environments are reset by hand.

`Environments` reads the mode and returns from every step the true s', and which rows are transitions at all.
"""

import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from trilab.data.rl.spec import EnvSpec
from trilab.errors import ConfigError, UserError, nearest

Backend = Literal["auto", "native", "sync", "async"]

# A vectorised CartPole step costs 28 us from 1 to 16 environments, a single environment's 5 us: they meet at six.
NATIVE_FROM = 6


class SerialVectorEnv(VectorEnv):
    """Environments stepped one after the other in this process, at the price of their own steps and little more.

    Gymnasium's SyncVectorEnv doubles the cost of a CartPole step (11 us against 5). Autoreset is DISABLED: a finished
    environment stands still, at no cost, until `reset(options={"reset_mask": ...})`. Rewards and ends are returned in
    arrays that the next step overwrites.
    """

    def __init__(self, make: Callable[[], gym.Env], num_envs: int) -> None:
        super().__init__()
        self.envs = [make() for _ in range(num_envs)]
        self.num_envs = num_envs
        first = self.envs[0]
        self.spec = first.spec
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        self.observation_space = batch_space(first.observation_space, num_envs)
        self.action_space = batch_space(first.action_space, num_envs)
        dtype = np.uint8 if _box(first.observation_space).dtype == np.uint8 else np.float32
        self._observations = np.zeros((num_envs, *_box(first.observation_space).shape), dtype)
        self._rewards = np.zeros(num_envs)
        self._terminated = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)
        self._finished = [False] * num_envs
        #: Whether the last step left any environment finished.
        self.any_done = False

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        mask = (options or {}).get("reset_mask")
        for i, env in enumerate(self.envs):
            if mask is None or mask[i]:
                own = seed + i if isinstance(seed, int) else seed[i] if seed else None
                self._observations[i] = env.reset(seed=own)[0]
                self._finished[i] = self._terminated[i] = self._truncated[i] = False
        self.any_done = any(self._finished)
        return self._observations.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observations = self._observations
        for i, action in enumerate(actions):
            if self._finished[i]:
                self._rewards[i] = 0.0
                continue
            observation, reward, terminated, truncated, _ = self.envs[i].step(action)
            observations[i] = observation
            self._rewards[i] = reward
            if terminated or truncated:
                self._finished[i] = self.any_done = True
                self._terminated[i], self._truncated[i] = terminated, truncated
        return observations.copy(), self._rewards, self._terminated, self._truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()


def resolve_backend(env_id: str, num_envs: int, backend: Backend) -> Backend:
    """What `auto` stands for: the environment's own vectorised code where there is some and it is the faster."""
    spec = registered(env_id)
    if backend == "native" and spec.vector_entry_point is None:
        raise UserError(
            f"{env_id} has no vectorised implementation of its own: set data.backend to auto, sync or async."
        )
    if backend == "auto":
        return "native" if spec.vector_entry_point is not None and num_envs >= NATIVE_FROM else "sync"
    return backend


def make_vector(env_id: str, num_envs: int, backend: Backend, max_episode_steps: int | None = None) -> VectorEnv:
    """A vector environment; `max_episode_steps` replaces the environment's own time limit."""
    backend = resolve_backend(env_id, num_envs, backend)
    limit: dict[str, Any] = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}

    def make() -> gym.Env:
        return gym.make(env_id, disable_env_checker=True, **limit)

    try:
        if backend == "native":
            return gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point", **limit)
        single = make()
        _check_spaces(env_id, single.observation_space, single.action_space)
        single.close()
        if backend == "async":
            return AsyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        return SerialVectorEnv(make, num_envs)
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"{env_id} needs a package that is not installed: {error}") from None


def describe(env_id: str, vector: VectorEnv) -> EnvSpec:
    """The spec of one of the vector's environments; refuses what no agent here can act in."""
    _check_spaces(env_id, vector.single_observation_space, vector.single_action_space)
    box = _box(vector.single_observation_space)
    assert isinstance(vector.single_action_space, gym.spaces.Discrete)
    return EnvSpec(
        env_id=env_id,
        observation_shape=tuple(box.shape),
        observation_dtype="uint8" if box.dtype == np.uint8 else "float32",
        num_actions=int(vector.single_action_space.n),
        reward_threshold=registered(env_id).reward_threshold,
    )


def has_time_limit(env_id: str) -> bool:
    return registered(env_id).max_episode_steps is not None


class Step(NamedTuple):
    """What one step of every environment gave: arrays of the vector's length, good until the next step."""

    next_observation: np.ndarray  # s', the true successor, at an episode's end too
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    done: np.ndarray | None  # terminated or truncated; None: nowhere
    valid: np.ndarray | None  # which rows are transitions; None: all of them


class Environments:
    """A vector environment, and the observations to act on next.

    Args:
        vector: any Gymnasium vector environment.
        restart: False leaves finished environments as they are, where the vector allows it: evaluation plays one
            episode in each.
    """

    def __init__(self, vector: VectorEnv, restart: bool = True) -> None:
        mode = vector.metadata.get("autoreset_mode")
        if mode is None:
            raise UserError(f"{vector} does not say how it restarts episodes (metadata['autoreset_mode']).")
        self.vector = vector
        self.mode = AutoresetMode(mode)
        self.num_envs = vector.num_envs
        #: The observations to act on: (num_envs, *shape), the caller's to keep.
        self.observations: np.ndarray = np.empty(0)
        self._serial = vector if isinstance(vector, SerialVectorEnv) else None
        self._restart = restart or self._serial is None
        space = vector.single_action_space
        self._first_action = int(space.start) if isinstance(space, gym.spaces.Discrete) else 0
        self._dtype = np.uint8 if _box(vector.single_observation_space).dtype == np.uint8 else np.float32
        self._resetting: np.ndarray | None = None

    def reset(self, seed: int) -> None:
        """Starts every environment anew; environment i gets seed + i where the vector seeds them one by one."""
        self.observations = self._own(self.vector.reset(seed=seed)[0])
        self._resetting = None

    def step(self, actions: np.ndarray) -> Step:
        if self._first_action:
            actions = actions + self._first_action
        raw, reward, terminated, truncated, infos = self.vector.step(actions)
        successor = self.observations = self._own(raw)
        done = None
        if self._serial is None or self._serial.any_done:  # of the one, it is known at no cost
            done = terminated | truncated
            done = done if done.any() else None
        valid = None
        if self.mode is AutoresetMode.NEXT_STEP:
            valid = None if self._resetting is None else ~self._resetting
            self._resetting = done
        elif done is not None and self.mode is AutoresetMode.SAME_STEP:
            successor = successor.copy()
            for i in np.flatnonzero(done):
                successor[i] = infos["final_obs"][i]
        elif done is not None and self._restart:  # DISABLED
            # The reset may clear the very arrays that the step has returned.
            terminated, truncated = terminated.copy(), truncated.copy()
            self.observations = self._own(self.vector.reset(options={"reset_mask": done})[0])
        return Step(successor, reward, terminated, truncated, done, valid)

    def _own(self, observations: np.ndarray) -> np.ndarray:
        """In our type, and a copy, for vectors may reuse their buffer, and s is still needed when s' has come."""
        return observations if self._serial is not None else np.array(observations, self._dtype)

    def close(self) -> None:
        self.vector.close()


def registered(env_id: str) -> gym.envs.registration.EnvSpec:
    """Gymnasium's own entry for an environment id.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:  # "package.module:Name-v0": importing the module registers the environment
            importlib.import_module(module)
        return gym.registry[name]
    except ImportError as error:
        raise ConfigError(f"data.env_id={env_id}: importing {module} failed: {error}.") from None
    except KeyError:
        versions = [known for known in gym.registry if known.split("-v")[0] == name.split("-v")[0]]
        hint = nearest(name, versions[-1:] or gym.registry)  # the latest, where only the version is wrong
        raise ConfigError(f"data.env_id={env_id}: no such environment.{hint}") from None


def _check_spaces(env_id: str, observation: gym.Space, action: gym.Space) -> None:
    if not isinstance(action, gym.spaces.Discrete):
        raise UserError(
            f"{env_id} has the action space {action}: value-based agents need a Discrete one, "
            "as in CartPole-v1, Acrobot-v1 or LunarLander-v3."
        )
    if isinstance(observation, gym.spaces.Discrete):
        raise UserError(f"{env_id} has the observation space {observation}: this agent needs a Box, as in CartPole-v1.")
    if not isinstance(observation, gym.spaces.Box):
        raise UserError(
            f"{env_id} has the observation space {observation}: only Box is supported (an array of one shape); "
            "register the environment with a flattening wrapper."
        )


def _box(space: gym.Space) -> gym.spaces.Box:
    assert isinstance(space, gym.spaces.Box)
    return space
