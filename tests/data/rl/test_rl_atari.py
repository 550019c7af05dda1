"""Atari's transitions, against the bare emulator driven frame by frame."""

import sys

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("ale_py")

import ale_py

from trilab.config.compose import option_alone
from trilab.config.job import build
from trilab.data.rl.arcade import AtariScreen, make_atari
from trilab.errors import ConfigError

SETTINGS = {
    "frame_skip": 4,
    "frame_stack": 4,
    "noop_max": 30,
    "repeat_action_probability": 0.0,
    "full_action_space": False,
}


def breakout(num_envs, agents=1, max_episode_steps=27000, episodic_life=True, **settings):
    return make_atari(
        "ALE/Breakout-v5",
        num_envs,
        agents=agents,
        max_episode_steps=max_episode_steps,
        episodic_life=episodic_life,
        threads=1,
        **{**SETTINGS, **settings},
    )


def overlaps(source, target):
    """(target, source) share of each source pixel in each target pixel, when a line of pixels is scaled by area."""
    edges = np.arange(target + 1) * source / target
    lower = np.maximum(edges[:-1, None], np.arange(source))
    upper = np.minimum(edges[1:, None], np.arange(source) + 1)
    return np.clip(upper - lower, 0, None) * target / source


ROWS, COLUMNS = overlaps(210, 84), overlaps(160, 84)


class Console:
    """A game played frame by frame."""

    def __init__(self, seed):
        self.ale = ale_py.ALEInterface()
        self.ale.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.setInt("random_seed", seed)
        self.ale.loadROM(ale_py.roms.get_rom_path("breakout"))
        self.buttons = self.ale.getMinimalActionSet()

    def begin(self, frames):
        """FIRE, and nothing until so many frames have passed."""
        self.ale.reset_game()
        self.ale.act(ale_py.Action.FIRE)
        for _ in range(frames - 1):
            self.ale.act(ale_py.Action.NOOP)
        self.grey = self.ale.getScreenGrayscale()
        return self

    def act(self, action):
        """The sum of rewards over four frames; the picture is the maximum of the last two."""
        reward, greys, colours = 0, [], []
        for _ in range(4):
            reward += self.ale.act(self.buttons[action])
            greys.append(self.ale.getScreenGrayscale())
            colours.append(self.ale.getScreenRGB())
        self.grey = np.maximum(*greys[-2:])
        self.colour = np.maximum(*colours[-2:])
        return reward

    def frame(self):
        return ROWS @ self.grey @ COLUMNS.T


def assert_shows(observation, console):
    assert np.abs(observation[-1] - console.frame()).max() <= 1, "not the last picture, but for rounding"


@pytest.mark.parametrize("episodic_life", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_transitions_are_the_games_own(episodic_life):
    environments = breakout(2, max_episode_steps=150, episodic_life=episodic_life)
    environments.reset([7])
    generator = np.random.default_rng(1)
    consoles = [Console(7 + i).begin(environments.infos["episode_frame_number"][i]) for i in range(2)]
    played, ends = np.zeros(2, int), {"life": 0, "limit": 0, "over": 0}
    for t in range(310):
        before = environments.observations
        for i in range(2):
            if played[i] == 0:
                assert_shows(before[i], consoles[i])
                assert not before[i][:3].any()
        # The second one loses its lives as fast as it can: it stays in the corner and serves.
        actions = np.array([generator.integers(4), generator.choice([1, 3])])
        step = environments.step(actions)
        assert step.valid is None
        assert step.next_observation.dtype == np.uint8
        played += 1
        for i, console in enumerate(consoles):
            lives = console.ale.lives()
            assert step.reward[i] == console.act(actions[i])
            over, lost = console.ale.game_over(), console.ale.lives() < lives
            assert (step.next_observation[i][:3] == before[i][1:]).all()
            assert step.terminated[i] == (over or (episodic_life and lost))
            assert step.truncated[i] == (played[i] == 150 and not over)
            if not over and (lost or step.truncated[i] or t % 25 == 0):  # scaling by hand takes milliseconds
                assert_shows(step.next_observation[i], console)
            ends["life"] += lost and not over
            ends["limit"] += step.truncated[i]
            ends["over"] += over
            done = over or step.truncated[i]
            assert done == (step.done is not None and step.done[i])
            if done:
                console.begin(environments.infos["episode_frame_number"][i])
                played[i] = 0
            else:
                assert (environments.observations[i] == step.next_observation[i]).all()
    assert ends["life"] >= 4
    assert min(ends["over"], ends["limit"]) >= 1, ends


def test_a_whole_game_ends_once_and_its_return_counts_all_lives():
    training, evaluation = breakout(1), breakout(1, episodic_life=False)
    training.reset([3])
    evaluation.reset([3])
    generator = np.random.default_rng(0)
    totals, terminations = np.zeros(2), np.zeros(2, int)
    while True:
        action = generator.integers(4, size=1)
        steps = training.step(action), evaluation.step(action)
        totals += [step.reward[0] for step in steps]
        terminations += [int(step.terminated[0]) for step in steps]
        assert (steps[0].done is None) == (steps[1].done is None)
        if steps[0].done is not None:
            break
    assert terminations.tolist() == [5, 1]
    assert totals[0] == totals[1] > 0


def test_rewards_are_not_clipped():
    """An invader pays 5 to 30."""
    environments = make_atari(
        "ALE/SpaceInvaders-v5",
        2,
        agents=1,
        max_episode_steps=27000,
        episodic_life=True,
        threads=1,
        **SETTINGS,
    )
    environments.reset([0])
    generator = np.random.default_rng(0)
    rewards = {environments.step(generator.integers(6, size=2)).reward.max() for _ in range(150)}
    assert max(rewards) >= 5


def test_an_agent_of_a_batch_plays_as_alone():
    batch, alone = breakout(2, agents=2, max_episode_steps=40), breakout(2, max_episode_steps=40)
    batch.reset([4, 9])
    alone.reset([9])
    generator = np.random.default_rng(0)
    for t in range(100):
        actions = generator.integers(4, size=4)
        behind = None if t % 3 else np.array([False, True])
        left, right = batch.step(actions, behind), alone.step(actions[2:])
        for one, other in zip((*left[:4], batch.observations), (*right[:4], alone.observations), strict=True):
            np.testing.assert_array_equal(one[2:], other)
        assert left.valid is None if behind is None else left.valid.tolist() == [False, False, True, True]
    assert batch.state_dict() is None
    assert not batch.load_state_dict(None)


def test_sticky_actions_are_random_and_seeded():
    def played(probability, seed):
        environments = breakout(1, repeat_action_probability=probability, noop_max=0)
        environments.reset([seed])
        generator = np.random.default_rng(0)
        return [environments.step(generator.integers(4, size=1)).next_observation for _ in range(30)]

    np.testing.assert_array_equal(played(0.25, 1), played(0.25, 1))
    np.testing.assert_array_equal(played(0.0, 1), played(0.0, 2))
    assert (np.array(played(0.25, 1)) != played(0.25, 2)).any()


def test_the_screen_shows_the_game_that_the_agent_plays():
    screen = AtariScreen("ALE/Breakout-v5", render=True, **SETTINGS)
    unseen = AtariScreen("ALE/Breakout-v5", render=False, **SETTINGS)
    assert screen.metadata["render_fps"] == 15
    observation, _ = screen.reset(seed=5)
    np.testing.assert_array_equal(observation, unseen.reset(seed=5)[0])
    environments = breakout(1)
    environments.reset([5])
    np.testing.assert_array_equal(observation, environments.observations[0])
    console = Console(5).begin(environments.infos["episode_frame_number"][0])
    generator = np.random.default_rng(0)
    for _ in range(60):
        action = int(generator.integers(4))
        console.act(action)
        observation, *_ = screen.step(action)
        np.testing.assert_array_equal(screen.render(), console.colour)
        np.testing.assert_array_equal(observation, unseen.step(action)[0])
    screen.close()


def test_atari_as_data():
    data = build(option_alone("data", "rl/breakout"))
    data.setup("fit")
    spec = data.spec
    assert (spec.observation_shape, spec.observation_dtype, spec.frame_stack) == ((4, 84, 84), "uint8", 4)
    assert (spec.num_actions, spec.num_states, spec.reward_threshold) == (4, None, None)
    evaluation = data._environments(1, 1, evaluation=True)
    evaluation.reset([0])
    lives = evaluation.infos["lives"][0]
    while evaluation.infos["lives"][0] == lives:
        step = evaluation.step(np.array([1]))
    assert not step.terminated[0], "evaluation goes on after a lost life"
    other = build(option_alone("data", "rl/atari", ["++data.frame_stack=2", "++data.full_action_space=true"]))
    other.setup("fit")
    assert (other.spec.observation_shape, other.spec.frame_stack, other.spec.num_actions) == ((2, 84, 84), 2, 18)


def test_what_is_no_game_is_refused_in_one_line(monkeypatch):
    def data(env_id):
        build(option_alone("data", "rl/atari", [f"data.env_id={env_id}"])).setup("fit")

    with pytest.raises(ConfigError, match="Did you mean 'ALE/Pong-v5'"):
        data("ALE/Pon-v5")
    with pytest.raises(ConfigError, match=r"no game of Atari's"):
        data("CartPole-v1")
    monkeypatch.setitem(sys.modules, "ale_py", None)
    monkeypatch.delitem(gym.registry, "ALE/Pong-v5")
    with pytest.raises(ConfigError, match="pip install ale-py"):
        data("ALE/Pong-v5")
