"""Environments by id: what is made, what is said of it, what is refused."""

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from trilab.config.compose import option_alone
from trilab.config.job import build
from trilab.data.rl.environment import (
    check_environment,
    describe,
    has_time_limit,
    make_environments,
    make_single,
    make_vector,
    resolve_backend,
)
from trilab.data.rl.environments import Environments
from trilab.errors import UserError


@pytest.mark.parametrize("backend", ["native", "sync"])
def test_cartpole_backends_agree_with_the_single_environment(backend):
    """From equal states, equal actions lead to equal observations, rewards and ends."""
    environments = make_environments("CartPole-v1", 2, backend, None, restart=False)
    environments.reset([5])
    start = environments.observations.astype(np.float64)
    if backend == "native":
        environments.vector.state = start.T.copy()
    else:
        for env, state in zip(environments.vector.envs, start, strict=True):
            env.unwrapped.state = state
    reference = gym.make("CartPole-v1")
    reference.reset()
    reference.unwrapped.state = start[0]
    rng = np.random.default_rng(0)
    for _ in range(200):
        actions = rng.integers(2, size=2)
        step = environments.step(actions)
        observation, reward, terminated, truncated, _ = reference.step(int(actions[0]))
        np.testing.assert_allclose(step.next_observation[0], observation, rtol=1e-5, atol=1e-6)
        assert (step.reward[0], step.terminated[0], step.truncated[0]) == (reward, terminated, truncated)
        if terminated:
            break
    assert terminated


def test_auto_takes_the_native_vector_where_it_is_faster():
    assert resolve_backend("CartPole-v1", 1, "auto") == "sync"
    assert resolve_backend("CartPole-v1", 7, "auto") == "sync"
    assert resolve_backend("CartPole-v1", 16, "auto") == "native"
    assert resolve_backend("Acrobot-v1", 16, "auto") == "sync"
    with pytest.raises(UserError, match="no vectorised implementation"):
        resolve_backend("Acrobot-v1", 16, "native")


@pytest.mark.parametrize("backend", ["sync", "native"])
def test_time_limit_is_a_truncation(backend):
    environments = make_environments("CartPole-v1", 6, backend, max_episode_steps=5)
    environments.reset([0])
    for count in range(1, 6):
        step = environments.step(np.arange(6) % 2)
        assert step.truncated.all() == (count == 5)
    assert not step.terminated.any()


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "spec"),
    [
        ("Acrobot-v1", {}, ((6,), "float32", 3, None, -100)),
        ("FrozenLake-v1", {}, ((), "int64", 4, 16, 0.7)),
        ("FrozenLake-v1", {"map_name": "8x8"}, ((), "int64", 4, 64, 0.7)),
        ("Taxi-v4", None, ((), "int64", 6, 500, 8)),
        ("CliffWalking-v1", None, ((), "int64", 4, 48, None)),
    ],
)
def test_spec(env_id, env_kwargs, spec):
    environments = make_environments(env_id, 2, "auto", 10, env_kwargs=env_kwargs)
    seen = describe(env_id, environments.vector)
    assert spec == (
        seen.observation_shape,
        seen.observation_dtype,
        seen.num_actions,
        seen.num_states,
        seen.reward_threshold,
    )
    environments.reset([0])
    step = environments.step(np.zeros(2, np.int64))
    assert step.next_observation.shape == (2, *seen.observation_shape)
    assert step.next_observation.dtype == seen.observation_dtype
    environments.close()


def test_arguments_reach_the_environment():
    """On ice that is not slippery, right, right, down, down, down, right leads to the goal."""
    environments = make_environments("FrozenLake-v1", 1, "sync", None, env_kwargs={"is_slippery": False})
    environments.reset([0])
    rewards = [environments.step(np.array([action])).reward[0] for action in (2, 2, 1, 1, 1, 2)]
    assert rewards == [0, 0, 0, 0, 0, 1]
    native = make_environments("CartPole-v1", 2, "native", None, env_kwargs={"sutton_barto_reward": True})
    native.reset([0])
    assert native.step(np.zeros(2, np.int64)).reward.tolist() == [0, 0]


def test_time_limits_are_known():
    assert has_time_limit("CartPole-v1")
    assert not has_time_limit("CliffWalking-v1")


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "message"),
    [
        ("CartPol-v1", {}, "Did you mean 'CartPole-v1'"),
        ("CartPole-v9", {}, "Did you mean 'CartPole-v1'"),
        ("no_such_package:Toy-v0", {}, "no_such_package"),
        ("Pendulum-v1", {}, "Discrete"),
        ("Blackjack-v1", {}, "Tuple.*only Box"),
        ("FrozenLake-v1", {"mapname": "8x8"}, "env_kwargs.*'mapname'"),
        ("FrozenLake-v1", {"map_name": "9x9"}, "env_kwargs.*refuses.*9x9"),
        ("CartPole-v1", {"max_episode_steps": 9}, "use data.max_episode_steps"),
        ("CartPole-v1", {"render_mode": "human"}, "callbacks.video"),
    ],
)
def test_bad_environments_are_refused_in_one_line(env_id, env_kwargs, message):
    for refuse in (
        lambda: check_environment(env_id, env_kwargs),
        lambda: make_environments(env_id, 1, "auto", None, env_kwargs=env_kwargs),
    ):
        with pytest.raises(UserError, match=message) as error:
            refuse()
        assert "\n" not in str(error.value)


def test_a_dict_of_observations_is_refused():
    class Room(gym.Env):
        observation_space = gym.spaces.Dict({"door": gym.spaces.Discrete(2)})
        action_space = gym.spaces.Discrete(2)

    gym.register("Room-v0", Room)
    try:
        with pytest.raises(UserError, match=r"Room-v0 has the observation space Dict.*flattening wrapper"):
            make_environments("Room-v0", 1, "auto", None)
    finally:
        del gym.registry["Room-v0"]


def test_refusing_needs_no_torch():
    code = (
        "import sys; from trilab.data.rl.environment import check_environment; check_environment('FrozenLake-v1'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for module in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(UserError, match=r"LunarLander-v3 needs a package that is not installed"):
        check_environment("LunarLander-v3")
    monkeypatch.setitem(sys.modules, "ale_py", None)
    monkeypatch.delitem(gym.registry, "ALE/Pong-v5", raising=False)
    with pytest.raises(UserError, match="pip install ale-py"):
        check_environment("ALE/Pong-v5")


def test_environments_of_other_packages_are_named_with_their_module():
    make_vector("gymnasium.envs.classic_control:CartPole-v1", 2, "sync").close()


class Unseen(gym.Env):
    """Draws no picture."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}


def test_a_single_environment_that_draws_or_none():
    pytest.importorskip("pygame")
    env = make_single("FrozenLake-v1", 3, {"map_name": "8x8"}, render=True)
    env.reset(seed=0)
    assert env.render().shape[2] == 3
    assert env.observation_space.n == 64
    env.close()
    gym.register("Unseen-v0", Unseen)
    try:
        assert make_single("Unseen-v0", 3, None, render=True) is None
        assert make_single("Unseen-v0", 3, None, render=False) is not None
    finally:
        del gym.registry["Unseen-v0"]


PRESETS = sorted(path.stem for path in (Path(__file__).parents[3] / "conf" / "data" / "rl").glob("*.yaml"))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_its_environments_and_steps_them(name):
    if name in ("atari", "pong", "breakout"):
        pytest.importorskip("ale_py")
    if name == "lunar_lander":
        pytest.importorskip("Box2D")
    data = build(option_alone("data", f"rl/{name}"))
    data.setup("fit")
    spec = data.spec
    for evaluation in (False, True):
        environments: Environments = data._environments(2, 2, evaluation)
        environments.reset([0, 1])
        assert environments.observations.shape == (4, *spec.observation_shape)
        assert environments.observations.dtype == spec.observation_dtype
        for action in range(spec.num_actions):
            step = environments.step(np.full(4, action))
            assert step.next_observation.shape == (4, *spec.observation_shape)
        environments.close()
    video = data.video_environment(False)
    assert video.reset(seed=0)[0] is not None
    video.close()
