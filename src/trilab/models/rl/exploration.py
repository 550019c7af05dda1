"""Epsilon-greedy exploration: schedules of epsilon, and the coins."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trilab.errors import ConfigError
from trilab.models.rl.checks import check_piecewise_epsilon
from trilab.ranges import Fraction, PositiveFraction

#: Epsilon by the share of the budget spent, in [0, 1].
EpsilonSchedule = Callable[[float], float]


class LinearEpsilon:
    """A straight line from `start` to `end` over the first `fraction` of the budget, `end` from there on."""

    def __init__(self, start: Fraction, end: Fraction, fraction: Fraction) -> None:
        _check(start=start, end=end, fraction=fraction)
        self.start = start
        self.end = end
        self.fraction = fraction

    def __call__(self, progress: float) -> float:
        if progress >= self.fraction:
            return self.end
        return self.start + (self.end - self.start) * progress / self.fraction


class ExponentialEpsilon:
    """end + (start - end) exp(-progress / fraction).

    Args:
        start: at the beginning.
        end: what it comes ever nearer to.
        fraction: share of the budget in which the distance to `end` shrinks to 1/e = 37%: three of them leave 5%.
    """

    def __init__(self, start: Fraction, end: Fraction, fraction: PositiveFraction) -> None:
        _check(start=start, end=end, fraction=fraction)
        if not fraction:
            raise ConfigError(f"model.epsilon.fraction={fraction}: expected a number > 0 and <= 1.")
        self.start = start
        self.end = end
        self.fraction = fraction

    def __call__(self, progress: float) -> float:
        return self.end + (self.start - self.end) * math.exp(-progress / self.fraction)


class PiecewiseEpsilon:
    """Straight lines from point to point, constant before the first and after the last.

    Args:
        points: pairs of a share of the budget and of epsilon there; the shares increase.
    """

    def __init__(self, points: Sequence[Sequence[Fraction]]) -> None:
        check_piecewise_epsilon({"points": points})
        self.shares = [float(share) for share, _ in points]
        self.epsilons = [float(epsilon) for _, epsilon in points]

    def __call__(self, progress: float) -> float:
        after = bisect_right(self.shares, progress)
        if after == 0:
            return self.epsilons[0]
        if after == len(self.shares):
            return self.epsilons[-1]
        left, right = self.shares[after - 1], self.shares[after]
        low, high = self.epsilons[after - 1], self.epsilons[after]
        return low + (high - low) * (progress - left) / (right - left)


def _check(start: float, end: float, fraction: float) -> None:
    for name, value in (("start", start), ("end", end), ("fraction", fraction)):
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"model.epsilon.{name}={value}: expected a number >= 0 and <= 1.")


# Steps whose coins are drawn at once, by the generator's two calls for all of them.
BLOCK = 256


class EpsilonGreedy:
    """With probability epsilon a random action, else the best one; each environment draws its own coin.

    Every agent has a generator of its own, and draws the same from it alone and beside others: coins and actions of
    `BLOCK` of its steps at a time, whether or not they are used.

    Args:
        num_actions: of the environment.
        seeds: of each agent's coins and random actions.
        num_envs: environments of each agent.
    """

    def __init__(self, num_actions: int, seeds: Sequence[int], num_envs: int) -> None:
        self.num_actions = num_actions
        self.num_envs = num_envs
        self._generators = [np.random.default_rng((seed, 2)) for seed in seeds]
        rows = len(seeds) * num_envs
        self._coins = np.empty((BLOCK, rows))
        self._actions = np.empty((BLOCK, rows), np.int64)
        #: Of each generator before it drew what is held of it now.
        self._before: list[dict[str, Any]] = [{} for _ in seeds]
        #: The least coin of each row; not known again until looked for after a draw.
        self._lowest: list[float] | None = None
        for agent in range(len(seeds)):
            self._draw(agent)
        # The row that all agents use next, and of each agent where they have drifted apart.
        self._row = 0
        self._rows: np.ndarray | None = None

    def __call__(
        self,
        observations: np.ndarray,
        greedy: Callable[[np.ndarray], np.ndarray],
        epsilon: float,
        behind: np.ndarray | None = None,
    ) -> np.ndarray:
        """Actions (rows,), rows being agents * num_envs.

        Args:
            observations: (rows, ...)
            greedy: the best actions for observations.
            epsilon: probability of a random action.
            behind: (agents,) the agents that act now; the others draw nothing, and their rows mean nothing. None: all.
        """
        if self._rows is not None or (behind is not None and not behind.all()):
            coins, anything = self._apart(np.ones(len(self._generators), bool) if behind is None else behind)
        else:
            if self._row == BLOCK:
                for agent in range(len(self._generators)):
                    self._draw(agent)
                self._row = 0
            row = self._row
            self._row = row + 1
            if self._lowest is None:
                self._lowest = self._coins.min(1).tolist()
            if self._lowest[row] >= epsilon:  # so that a step on which nobody explores costs next to nothing
                return greedy(observations)
            coins, anything = self._coins[row], self._actions[row]
        explores = coins < epsilon
        if explores.all():  # the network is not asked
            return anything.copy()
        return np.where(explores, anything, greedy(observations))

    def _apart(self, acting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step of those agents that act: their coins, 1 for all others', and random actions."""
        agents = len(self._generators)
        rows = np.full(agents, self._row) if self._rows is None else self._rows
        for agent in np.flatnonzero(acting & (rows == BLOCK)).tolist():
            self._draw(agent)
            rows[agent] = 0
        at = np.repeat(np.minimum(rows, BLOCK - 1), self.num_envs), np.arange(agents * self.num_envs)
        coins = np.where(np.repeat(acting, self.num_envs), self._coins[at], 1.0)
        self._take_up(rows + acting)
        return coins, self._actions[at]

    def _take_up(self, rows: np.ndarray) -> None:
        self._row, self._rows = int(rows[0]), None if (rows == rows[0]).all() else rows

    def _draw(self, agent: int) -> None:
        generator, columns = self._generators[agent], slice(agent * self.num_envs, (agent + 1) * self.num_envs)
        self._before[agent] = dict(generator.bit_generator.state)
        self._coins[:, columns] = generator.random((BLOCK, self.num_envs))
        self._actions[:, columns] = generator.integers(self.num_actions, size=(BLOCK, self.num_envs))
        self._lowest = None

    def state_dict(self) -> dict[str, Any]:
        rows = [self._row] * len(self._generators) if self._rows is None else self._rows.tolist()
        return {"generators": list(self._before), "rows": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for agent, before in enumerate(state["generators"]):
            self._generators[agent].bit_generator.state = before
            self._draw(agent)
        self._take_up(np.array(state["rows"]))
