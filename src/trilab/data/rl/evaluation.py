"""Episodes that agents are judged by."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trilab.data.rl.environments import Environments

#: Observations (rows, *shape) -> actions (rows,) int64, and the return predicted from each (rows,).
Judged = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

# A return that a time limit cuts off is completed by the agent's own prediction. It counts only where that makes up no
# more than this share of it, or the prediction would be compared with itself.
PREDICTED_SHARE = 0.1


class Episodes(NamedTuple):
    """What agents obtained, and what they had expected."""

    returns: np.ndarray  # (agents, episodes) undiscounted, unclipped sums of rewards
    lengths: np.ndarray  # (agents, episodes) environment steps
    predicted: np.ndarray  # (agents,) mean predicted discounted return of the states visited; nan where none counts
    real: np.ndarray  # (agents,) mean discounted return really obtained from the same states


class Evaluation:
    """Exactly `episodes` episodes of each agent with fixed seeds, none preferred for being short.

    Counting the first so many episodes to finish in a vector of environments favours short ones. Here every slot of
    the vector plays one episode from its start, and a new round begins when the last of them has ended.

    Args:
        environments: makes the environments, which are kept until `close`; every agent has as many.
        episodes: how many each agent plays.
        seed: of the first episode; fixed, so that every evaluation and every agent starts from the same states.
    """

    def __init__(self, environments: Callable[[], Environments], episodes: int, seed: int) -> None:
        self.episodes = episodes
        self.seed = seed
        self._make = environments
        self._environments: Environments | None = None

    def run(self, policy: Judged, gamma: float) -> Episodes:
        """Plays the episodes.

        Args:
            policy: of all agents, row by row.
            gamma: discount that the predictions are made at.
        """
        if self._environments is None:
            self._environments = self._make()
        environments = self._environments
        agents, slots = environments.agents, environments.num_envs
        returns, lengths = [], []
        predicted, real, counts = np.zeros(agents), np.zeros(agents), np.zeros(agents)
        for first in range(0, self.episodes, slots):
            played = min(slots, self.episodes - first)
            rewards, values, running, terminated = self._round(environments, policy, self.seed + first, played)
            counted, expected = discounted_returns(rewards, values, running, terminated, gamma)
            shape = (agents, slots)
            returns.append((rewards * running).sum(0).reshape(shape)[:, :played])
            lengths.append(running.sum(0).reshape(shape)[:, :played])
            predicted += (values * counted).sum(0).reshape(shape).sum(1)
            real += (expected * counted).sum(0).reshape(shape).sum(1)
            counts += counted.sum(0).reshape(shape).sum(1)
        with np.errstate(invalid="ignore"):
            return Episodes(np.hstack(returns), np.hstack(lengths), predicted / counts, real / counts)

    @staticmethod
    def _round(
        environments: Environments, policy: Judged, seed: int, played: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One episode in each of the first `played` slots of every agent: (steps, rows) arrays, and (rows,) ends."""
        environments.reset([seed] * environments.agents)
        running = np.tile(np.arange(environments.num_envs) < played, environments.agents)
        terminated = np.zeros(len(running), bool)
        rewards, values, masks = [], [], []
        while running.any():
            actions, value = policy(environments.observations)
            step = environments.step(actions)
            rewards.append(np.array(step.reward, np.float64))  # a copy: the environments may reuse the array
            values.append(value)
            masks.append(running)
            if step.done is not None:
                terminated |= running & step.terminated
                running = running & ~step.done
        return np.stack(rewards), np.stack(values).astype(np.float64), np.stack(masks), terminated

    def close(self) -> None:
        if self._environments is not None:
            self._environments.close()
            self._environments = None


def discounted_returns(
    rewards: np.ndarray, values: np.ndarray, running: np.ndarray, terminated: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """The discounted return from every step on, G_t = r_t + gamma G_{t+1}, and at which steps it is known.

    An episode that a time limit cut off has no end to sum up to: there the prediction at its last step stands for the
    rest, and only steps far enough before it count.

    Args:
        rewards: (steps, rows)
        values: (steps, rows) predicted return of each state.
        running: (steps, rows) whether the row's episode was still going on.
        terminated: (rows,) whether the row's episode came to a real end.
        gamma: discount.

    Returns:
        (steps, rows) bool, where the return counts; (steps, rows) the returns.
    """
    steps = len(rewards)
    last = running.sum(0) - 1  # (rows,) the episode's last step; -1 where none was played
    totals = np.zeros_like(rewards)
    following = np.zeros(rewards.shape[1])
    for t in range(steps - 1, -1, -1):
        following = rewards[t] + gamma * following
        cut = (last == t) & ~terminated
        following = np.where(cut, values[t], following)
        following = np.where(running[t], following, 0.0)
        totals[t] = following
    to_go = last - np.arange(steps)[:, None]  # (steps, rows)
    horizon = math.log(PREDICTED_SHARE) / math.log(gamma) if 0 < gamma < 1 else (math.inf if gamma else 0.0)
    return running & (terminated | (to_go >= horizon) & (to_go > 0)), totals
