"""Epsilon-greedy exploration: schedules of epsilon, and the coins."""

from collections.abc import Callable

import numpy as np

from trilab.ranges import Fraction

#: Epsilon by the share of the budget spent, in [0, 1].
EpsilonSchedule = Callable[[float], float]


class LinearEpsilon:
    """A straight line from `start` to `end` over the first `fraction` of the budget, `end` from there on."""

    def __init__(self, start: Fraction, end: Fraction, fraction: Fraction) -> None:
        self.start = start
        self.end = end
        self.fraction = fraction

    def __call__(self, progress: float) -> float:
        if progress >= self.fraction:
            return self.end
        return self.start + (self.end - self.start) * progress / self.fraction


# Coins drawn at once, by the generator's one call for all of them.
BLOCK = 256


class EpsilonGreedy:
    """With probability epsilon a random action, else the best one; each environment draws its own coin.

    Args:
        num_actions: of the environment.
        seed: of the coins and the random actions.
    """

    def __init__(self, num_actions: int, seed: int) -> None:
        self.num_actions = num_actions
        self._generator = np.random.default_rng((seed, 2))
        self._coins = np.empty((0, 0))  # (BLOCK, num_envs)
        self._lowest: list[float] = []  # of each row, so that a step on which nobody explores costs next to nothing
        self._next = 0

    def __call__(
        self, observations: np.ndarray, greedy: Callable[[np.ndarray], np.ndarray], epsilon: float
    ) -> np.ndarray:
        count = len(observations)
        row = self._next
        if row == len(self._lowest) or self._coins.shape[1] != count:
            self._coins = self._generator.random((BLOCK, count))
            self._lowest = self._coins.min(1).tolist()
            row = 0
        self._next = row + 1
        if self._lowest[row] >= epsilon:
            return greedy(observations)
        explores = self._coins[row] < epsilon
        anything = self._generator.integers(self.num_actions, size=count)
        if explores.all():  # the network is not asked
            return anything
        return np.where(explores, anything, greedy(observations))
