"""What episodes say of the predictions made in them."""

import numpy as np
import pytest

from trilab.data.rl.evaluation import discounted_returns


def test_returns_of_an_episode_that_ended():
    rewards = np.array([[1.0], [2.0], [4.0], [9.0]])
    running = np.array([[True], [True], [True], [False]])
    counted, returns = discounted_returns(rewards, np.full((4, 1), 100.0), running, np.array([True]), 0.5)
    assert counted[:, 0].tolist() == [True, True, True, False]
    assert returns[:3, 0].tolist() == [1 + 1 + 1, 2 + 2, 4], "each step's reward and half of what follows"


def test_a_time_limit_is_completed_by_the_last_prediction_and_counts_only_far_from_it():
    steps = 10
    rewards, values = np.ones((steps, 1)), np.full((steps, 1), 7.0)
    running = np.ones((steps, 1), bool)
    counted, returns = discounted_returns(rewards, values, running, np.array([False]), 0.5)
    expected = 7.0
    for t in range(steps - 1, -1, -1):
        if t < steps - 1:
            expected = 1 + 0.5 * expected
        assert returns[t, 0] == pytest.approx(expected)
    # 0.5^4 is the first power below a tenth, and the last step is number 9.
    assert counted[:, 0].tolist() == [True] * 6 + [False] * 4


def test_rows_do_not_mix_and_an_episode_not_played_counts_nowhere():
    rewards = np.array([[1.0, 5.0, 3.0], [1.0, 5.0, 3.0]])
    running = np.array([[True, True, False], [True, False, False]])
    counted, returns = discounted_returns(rewards, np.zeros((2, 3)), running, np.array([True, True, False]), 0.9)
    assert counted.tolist() == [[True, True, False], [True, False, False]]
    assert returns[0, :2].tolist() == [1.9, 5.0]


def test_undiscounted_returns_cut_off_are_unknown():
    counted, _ = discounted_returns(
        np.ones((3, 2)), np.zeros((3, 2)), np.ones((3, 2), bool), np.array([True, False]), 1.0
    )
    assert counted.tolist() == [[True, False]] * 3
