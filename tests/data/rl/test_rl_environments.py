"""Autoreset in all three modes, on an environment whose every transition is known; agents side by side; going on."""

import io

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from trilab.data.rl.environment import make_environments
from trilab.data.rl.environments import Environments, SideBySide
from trilab.data.rl.evaluation import Evaluation
from trilab.data.rl.experience import Experience
from trilab.data.rl.serial import Numbers, SerialVectorEnv


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


def corridors(mode, count, first=0):
    makers = [lambda index=index: Corridor(index) for index in range(first, first + count)]
    if mode == "serial":
        indices = iter(range(first, first + count))
        return SerialVectorEnv(lambda: Corridor(next(indices)), count)
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode(mode))


def agents_in_corridors(mode, agents, count):
    """Agent a's environments have the indices a * count and up."""
    if mode == "serial":
        return Environments(corridors(mode, agents * count), agents=agents)
    parts = [Environments(corridors(mode, count, agent * count)) for agent in range(agents)]
    return parts[0] if agents == 1 else SideBySide(parts)


def collect(environments, steps, behind_of=lambda t: None):
    """Transitions by environment, as a learner would store them: (s, a, r, s', terminated, truncated)."""
    rows = environments.agents * environments.num_envs
    stored = {row: [] for row in range(rows)}
    for t in range(steps):
        observation = environments.observations
        action = np.arange(rows) % 2
        step = environments.step(action, behind_of(t))
        for row in range(rows):
            if step.valid is None or step.valid[row]:
                columns = (observation, action, step.reward, step.next_observation, step.terminated, step.truncated)
                stored[row].append(tuple(column[row].tolist() for column in columns))
                ended = step.terminated[row] or step.truncated[row]
                assert ended == (step.done is not None and step.done[row])
    return stored


def expected_transitions():
    for episode in range(1000):
        length = 2 + episode % 3
        for cell in range(length):
            end = cell + 1 == length
            yield episode, cell, float(cell + 1), end and episode % 2 == 0, end and episode % 2 == 1


MODES = ["NextStep", "SameStep", "Disabled", "serial"]


@pytest.mark.parametrize("agents", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_exactly_the_environments_own_transitions_are_given(mode, agents):
    environments = agents_in_corridors(mode, agents, 2)
    environments.reset([0] * agents)
    stored = collect(environments, 40)
    for index, transitions in stored.items():
        assert len(transitions) >= 28
        for row, (episode, cell, reward, terminated, truncated) in zip(
            transitions, expected_transitions(), strict=False
        ):
            assert row == (
                [index, episode, cell],
                index % 2,
                reward,
                [index, episode, cell + 1],
                terminated,
                truncated,
            ), "a step is missing or stored twice, crosses an episode's end, or misses the true s'"


@pytest.mark.parametrize("mode", MODES)
def test_agents_that_are_ahead_wait(mode):
    environments = agents_in_corridors(mode, 3, 2)
    environments.reset([0] * 3)
    generator = np.random.default_rng(0)
    behind = generator.random((60, 3)) < 0.5
    behind[7] = False
    stored = collect(environments, 60, lambda t: behind[t])
    alone = agents_in_corridors(mode, 1, 6)
    alone.reset([0])
    undisturbed = collect(alone, 60)
    for row, transitions in stored.items():
        assert 15 < len(transitions) <= behind[:, row // 2].sum()
        assert transitions == undisturbed[row][: len(transitions)]


def test_async_gives_the_true_successor_too():
    vector = AsyncVectorEnv([lambda: Corridor(0), lambda: Corridor(1)], autoreset_mode=AutoresetMode.SAME_STEP)
    environments = Environments(vector)
    environments.reset([0])
    stored = collect(environments, 15)
    assert environments.state_dict() is None, "their state is in other processes"
    environments.close()
    for index, transitions in stored.items():
        expected = [(episode, cell) for episode, cell, *_ in expected_transitions()][:15]
        assert [tuple(row[0][1:]) for row in transitions] == expected
        assert all(row[3] == [index, row[0][1], row[0][2] + 1] for row in transitions)


@pytest.mark.parametrize("mode", MODES)
def test_finished_episodes_are_reported_once(mode):
    experience = Experience(
        agents_in_corridors(mode, 1, 2),
        seeds=[0],
        total_env_steps=1000,
        env_steps_per_iteration=10,
        replay_capacity=1000,
        batch_size=2,
        learning_starts=0,
    )
    rows = []
    experience.collect(
        lambda observations, _: np.zeros(len(observations), np.int64), 54, lambda *columns: rows.append(columns)
    )
    [finished] = experience.pop_episodes()
    # Both play nine episodes of 2, 3 and 4 steps, which pay 3, 6 and 10.
    assert finished.return_mean == pytest.approx((3 + 6 + 10) / 3)
    assert finished.length_mean == pytest.approx(3)
    [finished] = experience.pop_episodes()
    assert finished.return_mean is None


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
@pytest.mark.parametrize("agents", [1, 2])
@pytest.mark.parametrize("serial", [True, False])
def test_evaluation_plays_each_seed_once_long_or_short(slots, agents, serial):
    def make():
        if serial:
            return Environments(SerialVectorEnv(SeededLength, agents * slots), restart=False, agents=agents)
        return SideBySide([Environments(SyncVectorEnv([SeededLength] * slots), restart=False) for _ in range(agents)])

    evaluation = Evaluation(make, episodes=40, seed=100)
    expected = [seeded_length(100 + k) for k in range(40)]
    for _ in range(2):  # the same episodes at every evaluation
        episodes = evaluation.run(lambda seen: (np.zeros(len(seen), np.int64), np.zeros(len(seen))), 0.9)
        assert episodes.lengths.tolist() == [expected] * agents
        assert episodes.returns.tolist() == [expected] * agents
    evaluation.close()


@pytest.mark.parametrize("space", [gym.spaces.Discrete(3, start=5), gym.spaces.Discrete(2, start=-1)])
@pytest.mark.parametrize("kind", ["Disabled", "SameStep", "NextStep", "serial"])
def test_actions_and_states_are_counted_from_zero(space, kind):
    taken = []

    class Shifted(gym.Env):
        """Goes from the first state to the last and ends there."""

        action_space = space
        observation_space = space

        def reset(self, *, seed=None, options=None):
            self.state = int(space.start)
            return self.state, {}

        def step(self, action):
            assert self.action_space.contains(action)
            taken.append(int(action))
            self.state += 1
            return self.state, 0.0, self.state == space.start + space.n - 1, False, {}

    if kind == "serial":
        environments = Environments(SerialVectorEnv(Shifted, 2))
    else:
        environments = Environments(SyncVectorEnv([Shifted] * 2, autoreset_mode=AutoresetMode(kind)))
    environments.reset([0])
    assert environments.observations.tolist() == [0, 0]
    assert environments.observations.dtype == np.int64
    for state in range(1, int(space.n)):
        step = environments.step(np.array([0, space.n - 1]))
        assert step.next_observation.tolist() == [state, state]
        assert step.next_observation.dtype == np.int64
    assert taken[:2] == [space.start, space.start + space.n - 1]
    assert environments.observations.tolist() == ([0, 0] if kind != "NextStep" else [space.n - 1] * 2)


def test_the_faster_space_has_the_same_members():
    for space in (gym.spaces.Discrete(3), gym.spaces.Discrete(4, start=-2)):
        faster = Numbers(space)
        for x in range(-4, 6):
            for kind in (int, np.int64, np.int32, np.array):
                assert faster.contains(kind(x)) == space.contains(kind(x))


def play(environments, actions):
    """Everything that the environments give for a sequence of actions (steps, rows), as one list."""
    seen = []
    for action in actions:
        step = environments.step(action)
        seen.append([None if part is None else part.copy() for part in (*step, environments.observations)])
    return seen


def assert_same(one, other, rows=slice(None)):
    """That all steps of one are those of some rows of the other."""
    for left, right in zip(one, other, strict=True):
        for part, batched in zip(left, right, strict=True):
            if part is None or batched is None:
                default = batched is None or not batched[rows].any() or batched[rows].all()
                assert default, "one says something of rows of which the other says nothing"
            else:
                np.testing.assert_array_equal(part, batched[rows])


@pytest.mark.parametrize(
    ("env_id", "backend", "num_envs"),
    [("CartPole-v1", "sync", 3), ("CartPole-v1", "native", 5), ("FrozenLake-v1", "sync", 2)],
)
def test_an_agent_of_a_batch_plays_as_alone(env_id, backend, num_envs):
    seeds = [3, 4, 1000]
    batch = make_environments(env_id, num_envs, backend, None, agents=3)
    batch.reset(seeds)
    actions = np.random.default_rng(0).integers(2, size=(300, 3 * num_envs))
    together = play(batch, actions)
    for agent, seed in enumerate(seeds):
        alone = make_environments(env_id, num_envs, backend, None)
        alone.reset([seed])
        rows = slice(agent * num_envs, (agent + 1) * num_envs)
        assert_same(play(alone, actions[:, rows]), together, rows)


def through_a_checkpoint(state):
    """As a checkpoint is written, and read without trusting it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


RESTORED = [
    ("CartPole-v1", "sync", 2, 1),
    ("CartPole-v1", "sync", 1, 3),
    ("CartPole-v1", "native", 7, 1),
    ("CartPole-v1", "native", 2, 3),
    ("FrozenLake-v1", "sync", 3, 1),
    ("Acrobot-v1", "sync", 1, 1),
    pytest.param("LunarLander-v3", "sync", 2, 1, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("steps", [0, 1, 777])
@pytest.mark.parametrize(("env_id", "backend", "num_envs", "agents"), RESTORED)
def test_restored_environments_go_on_as_if_never_stopped(env_id, backend, num_envs, agents, steps):
    if env_id.startswith("LunarLander"):
        pytest.importorskip("Box2D")
    stopped = make_environments(env_id, num_envs, backend, None, agents=agents)
    stopped.reset(list(range(agents)))
    generator = np.random.default_rng(0)
    play(stopped, generator.integers(2, size=(steps, agents * num_envs)))
    state = through_a_checkpoint(stopped.state_dict())
    actions = generator.integers(2, size=(200, agents * num_envs))
    expected = play(stopped, actions)
    restored = make_environments(env_id, num_envs, backend, None, agents=agents)
    restored.reset([100 + agent for agent in range(agents)])
    assert restored.load_state_dict(state)
    assert_same(play(restored, actions), expected)


def reset_cartpoles(backend, agents, num_envs=2, limit=None):
    environments = make_environments("CartPole-v1", num_envs, backend, limit, agents=agents)
    environments.reset([5 + agent for agent in range(agents)])
    return environments


@pytest.mark.parametrize("backend", ["sync", "native"])
@pytest.mark.parametrize("agents", [1, 2])
def test_what_cannot_be_restored_begins_new_episodes(backend, agents):
    saved = reset_cartpoles(backend, agents)
    play(saved, np.zeros((4, 2 * agents), np.int64))
    state = saved.state_dict()
    # As if the simulator were another now: the last environment, or vector, does not come to where it was.
    if backend == "sync":
        state["serial"][-1]["actions"][1] = 1
    else:
        state.get("parts", [state])[-1]["vector"]["attributes"]["state"]["array"].add_(0.01)
    other, fresh = reset_cartpoles(backend, agents), reset_cartpoles(backend, agents)
    assert not other.load_state_dict(state)
    np.testing.assert_array_equal(other.observations, fresh.observations)
    actions = np.ones((30, 2 * agents), np.int64)
    assert_same(play(other, actions), play(fresh, actions))


@pytest.mark.parametrize("agents", [1, 2])
def test_the_state_of_other_environments_is_not_taken(agents):
    states = {backend: reset_cartpoles(backend, agents).state_dict() for backend in ("sync", "native")}
    for backend, state in states.items():
        assert reset_cartpoles(backend, agents).load_state_dict(state)
        assert not reset_cartpoles(backend, agents, num_envs=3).load_state_dict(state)
        assert not reset_cartpoles(backend, agents + 1).load_state_dict(state)
        assert not reset_cartpoles(backend, agents).load_state_dict(None)
    assert not reset_cartpoles("native", agents).load_state_dict(states["sync"])
    assert not reset_cartpoles("sync", agents).load_state_dict(states["native"])
    limited = reset_cartpoles("native", agents, limit=7)
    assert not limited.load_state_dict(states["native"]), "it would lose its new time limit"


def test_a_simulator_that_keeps_randomness_of_its_own_is_found_out():
    class Hidden(SeededLength):
        def reset(self, *, seed=None, options=None):
            return np.random.default_rng().random(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), 1.0, False, False, {}

    environments = Environments(SerialVectorEnv(Hidden, 2))
    environments.reset([0])
    assert not Environments(SerialVectorEnv(Hidden, 2)).load_state_dict(environments.state_dict())
