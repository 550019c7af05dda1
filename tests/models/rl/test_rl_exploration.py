"""Epsilon's schedules, and that every environment of every agent draws coins of its own."""

import io
import math

import numpy as np
import pytest
import torch

from trilab.errors import ConfigError
from trilab.models.rl.exploration import EpsilonGreedy, ExponentialEpsilon, LinearEpsilon, PiecewiseEpsilon


def test_linear_epsilon():
    epsilon = LinearEpsilon(start=1.0, end=0.05, fraction=0.5)
    assert [epsilon(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([1.0, 0.525, 0.05, 0.05, 0.05])
    assert LinearEpsilon(start=1.0, end=0.1, fraction=0.0)(0.0) == 0.1


def test_exponential_epsilon_falls_to_a_third_of_the_way_in_its_fraction():
    epsilon = ExponentialEpsilon(start=1.0, end=0.1, fraction=0.2)
    assert epsilon(0.0) == 1.0
    assert epsilon(0.2) == pytest.approx(0.1 + 0.9 / math.e)
    assert epsilon(0.6) == pytest.approx(0.1 + 0.9 * 0.0498, abs=1e-4)


def test_piecewise_epsilon_is_interpolation():
    points = [[0.1, 1.0], [0.3, 0.2], [0.8, 0.0]]
    epsilon = PiecewiseEpsilon(points)
    for share in np.linspace(0.0, 1.0, 41):
        assert epsilon(float(share)) == pytest.approx(np.interp(share, *np.transpose(points)))
    assert PiecewiseEpsilon([[0.5, 0.3]])(0.9) == 0.3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LinearEpsilon(1.5, 0.0, 0.5), r"model\.epsilon\.start=1\.5: expected a number >= 0 and <= 1\."),
        (lambda: LinearEpsilon(1.0, -0.1, 0.5), r"model\.epsilon\.end=-0\.1"),
        (lambda: LinearEpsilon(1.0, 0.1, 2.0), r"model\.epsilon\.fraction=2\.0"),
        (lambda: ExponentialEpsilon(1.0, 0.1, 0.0), r"model\.epsilon\.fraction=0\.0: expected a number > 0"),
        (lambda: PiecewiseEpsilon([]), r"model\.epsilon\.points=\[\]: expected pairs"),
        (lambda: PiecewiseEpsilon([[0.0, 1.0], [0.5]]), r"expected pairs"),
        (lambda: PiecewiseEpsilon([[0.0, 1.0], [0.5, 1.2]]), r"from 0 to 1"),
        (lambda: PiecewiseEpsilon([[0.5, 1.0], [0.5, 0.2]]), r"increase from point to point"),
    ],
)
def test_schedules_that_cannot_be(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def best(observations):
    return np.full(len(observations), 9)  # stands out, so that exploring actions can be counted


def play(explore, steps, rows, epsilon=0.3, behind=lambda step: None):
    return np.array([explore(np.zeros((rows, 1)), best, epsilon, behind(step)) for step in range(steps)])


def test_every_environment_draws_its_own_coin():
    actions = play(EpsilonGreedy(num_actions=4, seeds=[0], num_envs=8), 2000, 8)
    explored = actions != 9
    assert explored.mean(0) == pytest.approx(np.full(8, 0.3), abs=0.03)
    # Independent coins: all eight agree with probability 0.3^8 + 0.7^8 = 0.058; one coin for all would give 1.
    assert (explored.all(1) | ~explored.any(1)).mean() == pytest.approx(0.058, abs=0.015)
    counts = np.bincount(actions[explored])
    assert len(counts) == 4
    assert counts / counts.sum() == pytest.approx(np.full(4, 0.25), abs=0.02)


def test_the_network_is_not_asked_when_every_coin_says_explore():
    def never(observations):
        raise AssertionError

    explore = EpsilonGreedy(num_actions=3, seeds=[0], num_envs=100)
    assert set(explore(np.zeros((100, 1)), never, 1.0).tolist()) == {0, 1, 2}


def test_nobody_explores_at_epsilon_zero():
    assert (play(EpsilonGreedy(3, [0, 1], 2), 300, 4, epsilon=0.0) == 9).all()


@pytest.mark.parametrize("num_envs", [1, 3])
def test_an_agent_draws_the_same_alone_and_beside_others(num_envs):
    seeds = [5, 11, 2]
    together = play(EpsilonGreedy(4, seeds, num_envs), 600, 3 * num_envs)
    alone = [play(EpsilonGreedy(4, [seed], num_envs), 600, num_envs) for seed in seeds]
    assert np.array_equal(together, np.concatenate(alone, axis=1))
    assert not np.array_equal(alone[0], alone[1])


def test_agents_that_wait_draw_nothing():
    seeds, num_envs = [5, 11, 2], 2
    generator = np.random.default_rng(0)
    # In bouts of steps in which some wait, and of steps in which all act, across several blocks of draws.
    acting = np.ones((900, 3), bool)
    for start in range(0, 900, 100):
        acting[start : start + 60] = generator.random((60, 3)) < 0.6
    actions = play(EpsilonGreedy(4, seeds, num_envs), 900, 6, behind=lambda step: acting[step])
    for agent, seed in enumerate(seeds):
        own = actions[acting[:, agent], agent * num_envs : (agent + 1) * num_envs]
        assert np.array_equal(own, play(EpsilonGreedy(4, [seed], num_envs), len(own), num_envs))


def test_agents_that_come_together_again_go_on_together():
    explore = EpsilonGreedy(4, [5, 11], 1)
    for behind in ([True, False], [False, True]):
        explore(np.zeros((2, 1)), best, 0.3, np.array(behind))
    together = play(explore, 600, 2)
    alone = [play(EpsilonGreedy(4, [seed], 1), 601, 1)[1:] for seed in (5, 11)]
    assert np.array_equal(together, np.concatenate(alone, axis=1))


@pytest.mark.parametrize("steps", [0, 1, 256, 300])
@pytest.mark.parametrize("apart", [False, True])
def test_a_saved_state_goes_on_with_the_same_coins(steps, apart):
    explore = EpsilonGreedy(4, [5, 11], 3)
    play(explore, steps, 6)
    if apart:
        explore(np.zeros((6, 1)), best, 0.3, np.array([True, False]))
    file = io.BytesIO()
    torch.save(explore.state_dict(), file)
    expected = play(explore, 400, 6)
    file.seek(0)
    again = EpsilonGreedy(4, [0, 1], 3)
    play(again, 7, 6)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert np.array_equal(play(again, 400, 6), expected)


def test_actions_are_the_callers_to_keep():
    explore = EpsilonGreedy(4, [5], 2)
    kept = [explore(np.zeros((2, 1)), best, 1.0) for _ in range(600)]
    copies = [actions.copy() for actions in kept]
    play(explore, 600, 2)
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))
