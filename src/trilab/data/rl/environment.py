"""Environments by Gymnasium id: what they are called, what they take, and vectors of them."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from trilab.data.rl.environments import Environments, SideBySide
from trilab.data.rl.serial import SerialVectorEnv
from trilab.data.rl.spaces import check_spaces, observation_dtype
from trilab.data.rl.spec import EnvSpec
from trilab.errors import ConfigError, UserError, nearest

Backend = Literal["auto", "native", "sync", "async"]

# A vectorised CartPole step costs as much for 1 environment as for 16, and a single environment's an eighth of it.
NATIVE_FROM = 8

#: Arguments of `gymnasium.make` that are set by other means, and which.
_NOT_THE_ENVIRONMENTS = {
    "max_episode_steps": "use data.max_episode_steps",
    "render_mode": "videos are made by callbacks.video",
    "disable_env_checker": "it is set by trilab itself",
    "vectorization_mode": "use data.backend",
    "vector_kwargs": "use data.backend",
    "num_envs": "use data.num_envs",
    "id": "use data.env_id",
}


def registered(env_id: str) -> gym.envs.registration.EnvSpec:
    """Gymnasium's own entry for an environment id.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = env_id.rpartition(":")
    if name.startswith("ALE/"):
        module = module or "ale_py"
    try:
        if module:  # "package.module:Name-v0": importing the module registers the environment
            importlib.import_module(module)
        return gym.registry[name]
    except ImportError as error:
        if module == "ale_py":
            raise ConfigError(f"data.env_id={env_id} needs Atari's emulator: pip install ale-py.") from None
        raise ConfigError(f"data.env_id={env_id}: importing {module} failed: {error}.") from None
    except KeyError:
        versions = [known for known in gym.registry if known.split("-v")[0] == name.split("-v")[0]]
        hint = nearest(name, versions[-1:] or gym.registry)  # the latest, where only the version is wrong
        raise ConfigError(f"data.env_id={env_id}: no such environment.{hint}") from None


def has_time_limit(env_id: str) -> bool:
    return registered(env_id).max_episode_steps is not None


def package_of(env_id: str) -> str:
    """Name and version of the package that an environment is from, as `gymnasium 1.4.0`."""
    entry = registered(env_id).entry_point
    name = (entry if isinstance(entry, str) else getattr(entry, "__module__", "")).partition(".")[0].partition(":")[0]
    version = getattr(sys.modules.get(name), "__version__", "")
    return f"{name} {version}".strip()


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


def check_environment(
    env_id: str, env_kwargs: Mapping[str, Any] | None = None, max_episode_steps: int | None = None
) -> None:
    """Makes one environment, to see that it can be made and that agents can act in it. Needs no torch.

    Raises:
        UserError: it cannot, or they cannot.
    """
    env = _make(env_id, max_episode_steps, env_kwargs)
    try:
        check_spaces(env_id, env.observation_space, env.action_space)
    finally:
        env.close()


def make_single(
    env_id: str, max_episode_steps: int | None, env_kwargs: Mapping[str, Any] | None, render: bool
) -> gym.Env | None:
    """One environment; with `render`, one whose `render()` returns its picture, or None where it draws none."""
    env = _make(env_id, max_episode_steps, env_kwargs)
    if not render:
        return env
    env.close()
    if "rgb_array" not in env.metadata.get("render_modes", []):
        return None
    return _make(env_id, max_episode_steps, env_kwargs, render_mode="rgb_array")


def make_vector(
    env_id: str,
    num_envs: int,
    backend: Backend,
    max_episode_steps: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> VectorEnv:
    """A vector environment; `max_episode_steps` replaces the environment's own time limit."""
    backend = resolve_backend(env_id, num_envs, backend)
    if backend == "native":
        vector: VectorEnv = _refusing(
            env_id, env_kwargs, lambda arguments: gym.make_vec(
                env_id, num_envs, vectorization_mode="vector_entry_point", **_limit(max_episode_steps), **arguments
            )
        )  # fmt: skip
        check_spaces(env_id, vector.single_observation_space, vector.single_action_space)
        return vector
    check_environment(env_id, env_kwargs, max_episode_steps)

    def make() -> gym.Env:
        return _make(env_id, max_episode_steps, env_kwargs)

    if backend == "async":
        return AsyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    return SerialVectorEnv(make, num_envs)


def make_environments(
    env_id: str,
    num_envs: int,
    backend: Backend,
    max_episode_steps: int | None,
    agents: int = 1,
    restart: bool = True,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Environments:
    """Environments of one agent or several, each of which plays as if it were alone.

    Args:
        env_id: as registered with Gymnasium.
        num_envs: of each agent.
        backend: see `resolve_backend`.
        max_episode_steps: time limit in place of the environment's own; None keeps that.
        agents: how many there are.
        restart: False where finished environments may stand still (evaluation).
        env_kwargs: arguments of the environment's own.

    Raises:
        UserError: there is no such environment, it lacks a package, refuses an argument, or no agent can act in it.
    """
    backend = resolve_backend(env_id, num_envs, backend)
    if backend == "sync":
        vector = make_vector(env_id, agents * num_envs, backend, max_episode_steps, env_kwargs)
        return Environments(vector, restart, agents)
    parts = [
        Environments(make_vector(env_id, num_envs, backend, max_episode_steps, env_kwargs), restart)
        for _ in range(agents)
    ]
    return parts[0] if agents == 1 else SideBySide(parts)


def describe(env_id: str, vector: VectorEnv, frame_stack: int = 1) -> EnvSpec:
    """The spec of one of the vector's environments; refuses what no agent here can act in.

    Args:
        env_id: as registered.
        vector: of these environments.
        frame_stack: of how many frames an observation consists.
    """
    observations, actions = vector.single_observation_space, vector.single_action_space
    check_spaces(env_id, observations, actions)
    assert isinstance(actions, gym.spaces.Discrete)
    return EnvSpec(
        env_id=env_id,
        observation_shape=tuple(observations.shape or ()),
        observation_dtype=observation_dtype(observations).__name__,  # type: ignore[arg-type]
        num_actions=int(actions.n),
        num_states=int(observations.n) if isinstance(observations, gym.spaces.Discrete) else None,
        frame_stack=frame_stack,
        reward_threshold=registered(env_id).reward_threshold,
    )


def _make(
    env_id: str, max_episode_steps: int | None, env_kwargs: Mapping[str, Any] | None, render_mode: str | None = None
) -> gym.Env:
    """One environment, its refusals in one line."""
    registered(env_id)
    drawn: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    made: gym.Env = _refusing(
        env_id,
        env_kwargs,
        lambda arguments: gym.make(env_id, disable_env_checker=True, **_limit(max_episode_steps), **drawn, **arguments),
    )
    return made


def _limit(max_episode_steps: int | None) -> dict[str, Any]:
    return {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}


def _refusing(env_id: str, env_kwargs: Mapping[str, Any] | None, make: Callable[[dict[str, Any]], Any]) -> Any:
    arguments = dict(env_kwargs or {})
    for name, instead in _NOT_THE_ENVIRONMENTS.items():
        if name in arguments:
            raise ConfigError(f"data.env_kwargs.{name}: no argument of the environment's own; {instead}.")
    try:
        return make(arguments)
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"{env_id} needs a package that is not installed: {error}") from None
    except Exception as error:  # an environment checks its own arguments, each in its own way
        if not arguments:
            raise
        reason = " ".join(str(error).split()).split(" was raised from ")[0]
        raise ConfigError(
            f"data.env_kwargs={arguments}: {env_id} refuses them: {type(error).__name__}: {reason}."
        ) from error
