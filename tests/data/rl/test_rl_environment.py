"""Autoreset in all three modes, on an environment whose every transition is known."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from trilab.data.rl.environment import Environments, SerialVectorEnv, describe, make_vector, resolve_backend
from trilab.data.rl.experience import Evaluation, Experience
from trilab.data.rl.replay import ReplayBuffer
from trilab.errors import UserError


class Corridor(gym.Env):
    """Episode e of environment i runs over the cells (i, e, 0), (i, e, 1), ... and pays the number of the cell.

    Episodes last 2, 3, 4, 2, 3, 4, ... steps; every second one is truncated at its end, the others terminate.
    """

    observation_space = gym.spaces.Box(-1.0, 1e6, (3,), np.float64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, index):
        self.cell, self.episode, self.index = 0, -1, index

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.episode = 0, self.episode + 1
        return self._observation(), {}

    def step(self, action):
        assert self.cell < self.length, "stepped past the end of an episode"
        self.cell += 1
        end = self.cell == self.length
        truncated = self.episode % 2 == 1
        return self._observation(), float(self.cell), end and not truncated, end and truncated, {}

    @property
    def length(self):
        return 2 + self.episode % 3

    def _observation(self):
        return np.array([self.index, self.episode, self.cell], np.float64)


def corridors(mode, count):
    makers = [lambda index=index: Corridor(index) for index in range(count)]
    if mode == "serial":
        indices = iter(range(count))
        return SerialVectorEnv(lambda: Corridor(next(indices)), count)
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode(mode))


MODES = ["NextStep", "SameStep", "Disabled", "serial"]


class Recorder:
    """Stands in for the replay buffer."""

    def __init__(self):
        self.rows = []

    def add(self, *columns):
        self.rows += [tuple(np.array(value).copy() for value in row) for row in zip(*columns, strict=True)]

    def __len__(self):
        return len(self.rows)


def experience_of(mode, count, steps):
    recorder = Recorder()
    experience = Experience(
        Environments(corridors(mode, count)),
        recorder,
        total_env_steps=1000,
        env_steps_per_iteration=10,
        batch_size=2,
        learning_starts=0,
        seed=0,
    )
    experience.collect(lambda observations: np.arange(len(observations)) % 2, until=steps)
    return experience, recorder


@pytest.mark.parametrize("mode", MODES)
def test_exactly_the_environments_own_transitions_are_stored(mode):
    experience, recorder = experience_of(mode, 3, 60)
    assert experience.env_steps == len(recorder.rows) >= 60
    seen = {index: [] for index in range(3)}
    for observation, action, reward, successor, terminated in recorder.rows:
        index, episode, cell = observation.astype(int).tolist()
        assert action == index % 2
        assert successor.tolist() == [index, episode, cell + 1], "crosses an episode's end, or misses the true s'"
        assert reward == cell + 1
        length = 2 + episode % 3
        assert cell < length
        assert terminated == (cell + 1 == length and episode % 2 == 0), "truncation is not termination"
        seen[index].append((episode, cell))
    for rows in seen.values():
        expected = [(episode, cell) for episode in range(20) for cell in range(2 + episode % 3)]
        assert rows == expected[: len(rows)], "a step is missing, or one is stored twice"


@pytest.mark.parametrize("mode", MODES)
def test_finished_episodes_are_reported_once(mode):
    experience, _ = experience_of(mode, 2, 60)
    returns, lengths = experience.pop_episodes()
    assert all(total == length * (length + 1) / 2 for total, length in zip(returns, lengths, strict=True))
    # The two run alike, so that episodes come in pairs of lengths 2, 3, 4, 2, 3, 4, ...
    assert lengths.tolist() == [2 + k // 2 % 3 for k in range(len(lengths))]
    assert len(lengths) in (18, 20)
    assert len(experience.pop_episodes().returns) == 0


def test_async_gives_the_true_successor_too():
    recorder = Recorder()
    vector = AsyncVectorEnv([lambda: Corridor(0), lambda: Corridor(1)], autoreset_mode=AutoresetMode.SAME_STEP)
    environments = Environments(vector)
    experience = Experience(
        environments, recorder, total_env_steps=99, env_steps_per_iteration=9, batch_size=1, learning_starts=0, seed=0
    )
    experience.collect(lambda observations: np.zeros(len(observations), np.int64), until=30)
    experience.close()
    for observation, _, reward, successor, _ in recorder.rows:
        assert successor.tolist() == [observation[0], observation[1], observation[2] + 1]
        assert reward == observation[2] + 1


class SeededLength(gym.Env):
    """An episode lasts as long as its seed says: 1 to 50 steps, 1 a step, whatever is done."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 51))
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


def seeded_length(seed):
    return int(np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).integers(1, 51))


@pytest.mark.parametrize("slots", [1, 7, 40, 64])
@pytest.mark.parametrize("serial", [True, False])
def test_evaluation_plays_each_seed_once_long_or_short(slots, serial):
    def make():
        if serial:
            return Environments(SerialVectorEnv(SeededLength, slots), restart=False)
        return Environments(SyncVectorEnv([SeededLength] * slots), restart=False)

    evaluation = Evaluation(make, episodes=40, seed=100)
    expected = [seeded_length(100 + k) for k in range(40)]
    for _ in range(2):  # the same episodes at every evaluation
        returns, lengths = evaluation.run(lambda observations: np.zeros(len(observations), np.int64))
        assert lengths.tolist() == expected
        assert returns.tolist() == expected
    evaluation.close()


@pytest.mark.parametrize("backend", ["native", "sync"])
def test_cartpole_backends_agree_with_the_single_environment(backend):
    """From equal states, equal actions lead to equal observations, rewards and ends."""
    environments = Environments(make_vector("CartPole-v1", 2, backend), restart=False)
    environments.reset(5)
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
    assert resolve_backend("CartPole-v1", 16, "auto") == "native"
    assert resolve_backend("Acrobot-v1", 16, "auto") == "sync"
    with pytest.raises(UserError, match="no vectorised implementation"):
        resolve_backend("Acrobot-v1", 16, "native")


@pytest.mark.parametrize("backend", ["sync", "native"])
def test_time_limit_is_a_truncation(backend):
    environments = Environments(make_vector("CartPole-v1", 6, backend, max_episode_steps=5))
    environments.reset(0)
    for count in range(1, 6):
        step = environments.step(np.arange(6) % 2)
        assert step.truncated.all() == (count == 5)
    assert not step.terminated.any()


def test_action_spaces_that_start_elsewhere():
    taken = []

    class Shifted(SeededLength):
        action_space = gym.spaces.Discrete(3, start=5)

        def step(self, action):
            taken.append(int(action))
            return super().step(action)

    environments = Environments(SerialVectorEnv(Shifted, 2))
    environments.reset(0)
    environments.step(np.array([0, 2]))
    assert taken == [5, 7]


def test_bad_environments_are_refused_in_one_line():
    with pytest.raises(UserError, match="Did you mean 'CartPole-v1'"):
        make_vector("CartPol-v1", 1, "sync")
    with pytest.raises(UserError, match="Did you mean 'CartPole-v1'"):
        make_vector("CartPole-v9", 1, "sync")
    with pytest.raises(UserError, match="no_such_package"):
        make_vector("no_such_package:Toy-v0", 1, "sync")
    with pytest.raises(UserError, match="Discrete"):
        make_vector("Pendulum-v1", 1, "auto")
    with pytest.raises(UserError, match="Box"):
        make_vector("FrozenLake-v1", 1, "auto")
    with pytest.raises(UserError, match="Tuple"):
        make_vector("Blackjack-v1", 1, "auto")


def test_environments_of_other_packages_are_named_with_their_module():
    make_vector("gymnasium.envs.classic_control:CartPole-v1", 2, "sync").close()


def test_spec():
    vector = make_vector("Acrobot-v1", 2, "sync")
    spec = describe("Acrobot-v1", vector)
    assert (spec.observation_shape, spec.observation_dtype, spec.num_actions) == ((6,), "float32", 3)
    assert spec.reward_threshold == -100
    vector.close()


def test_replay_fills_from_real_environments():
    experience = Experience(
        Environments(make_vector("CartPole-v1", 8, "native")),
        ReplayBuffer(1000, describe("CartPole-v1", make_vector("CartPole-v1", 1, "sync")), seed=0),
        total_env_steps=500,
        env_steps_per_iteration=50,
        batch_size=16,
        learning_starts=200,
        seed=0,
    )
    rng = np.random.default_rng(0)
    assert experience.iteration_ends == 50
    experience.collect(lambda observations: rng.integers(2, size=8), until=50)
    assert 50 <= experience.env_steps < 58
    assert experience.iteration_ends == 100, "overshoot does not add up"
    assert not experience.ready
    experience.collect(lambda observations: rng.integers(2, size=8), until=497)
    assert experience.iteration_ends == 500
    assert experience.ready
    batch = experience.sample()
    # A step of CartPole moves the cart by tau times its velocity: wrong pairs of s and s' would not.
    moved = batch.next_observation[:, 0] - batch.observation[:, 0]
    np.testing.assert_allclose(moved, 0.02 * batch.observation[:, 1], atol=1e-6)
