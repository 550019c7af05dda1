"""The agent's life in its environments: experience to learn from, and episodes to be judged by."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode

from trilab.data.rl.environment import Environments
from trilab.data.rl.replay import Batch, ReplayBuffer
from trilab.data.rl.spec import FIRST_TRAINING_SEED

#: Acts on the whole batch of environments: observations (num_envs, *shape) -> actions (num_envs,) int64.
Policy = Callable[[np.ndarray], np.ndarray]


class Episodes(NamedTuple):
    """Finished episodes."""

    returns: np.ndarray  # undiscounted, unclipped sums of rewards
    lengths: np.ndarray  # environment steps


class Experience:
    """Training environments and the replay that they fill.

    Counts in environment steps, which are stored transitions, whatever the number of environments.

    Args:
        environments: stepped in turn with the learning.
        replay: takes every transition.
        total_env_steps: the budget; schedules are shares of it.
        env_steps_per_iteration: environment steps of one training step.
        batch_size: transitions in a batch.
        learning_starts: transitions to hold before the first batch may be drawn.
        seed: of the training environments.
        env_steps: steps already taken in an earlier process.
    """

    def __init__(
        self,
        environments: Environments,
        replay: ReplayBuffer,
        *,
        total_env_steps: int,
        env_steps_per_iteration: int,
        batch_size: int,
        learning_starts: int,
        seed: int,
        env_steps: int = 0,
    ) -> None:
        self.environments = environments
        self.replay = replay
        self.total_env_steps = total_env_steps
        self.env_steps_per_iteration = env_steps_per_iteration
        self.batch_size = batch_size
        self.learning_starts = learning_starts
        self.env_steps = env_steps
        environments.reset(FIRST_TRAINING_SEED + int(np.random.SeedSequence(seed).generate_state(1)[0]) // 8)
        self._returns = np.zeros(environments.num_envs)
        self._vector_steps = 0
        self._begun = np.zeros(environments.num_envs, np.int64)  # vector steps before each episode's first
        # After an episode's end, one vector step is spent on the reset, or none.
        self._pause = int(environments.mode is AutoresetMode.NEXT_STEP)
        self._finished: list[tuple[float, int]] = []

    @property
    def ready(self) -> bool:
        """Whether there is enough to learn from."""
        return len(self.replay) >= max(1, self.learning_starts)

    @property
    def iteration_ends(self) -> int:
        """The number of environment steps at which the current training step is over.

        On a fixed grid, so that the few steps by which a vector of environments overshoots never add up.
        """
        size = self.env_steps_per_iteration
        return min((self.env_steps // size + 1) * size, self.total_env_steps)

    def collect(self, policy: Policy, until: int) -> None:
        """Acts until `env_steps` has reached `until`, in whole steps of all environments."""
        environments, add = self.environments, self.replay.add
        while self.env_steps < until:
            observation = environments.observations
            action = policy(observation)
            step = environments.step(action)
            valid = step.valid
            if valid is None:
                add(observation, action, step.reward, step.next_observation, step.terminated)
                self.env_steps += environments.num_envs
                self._returns += step.reward
            else:
                rows = observation[valid], action[valid], step.reward[valid], step.next_observation[valid]
                add(*rows, step.terminated[valid])
                self.env_steps += len(rows[0])
                self._returns += np.where(valid, step.reward, 0.0)
            self._vector_steps += 1
            if step.done is not None:
                self._end_episodes(step.done)

    def _end_episodes(self, done: np.ndarray) -> None:
        lengths = self._vector_steps - self._begun[done]
        self._finished += zip(self._returns[done].tolist(), lengths.tolist(), strict=True)
        self._returns[done] = 0.0
        self._begun[done] = self._vector_steps + self._pause

    def sample(self) -> Batch:
        return self.replay.sample(self.batch_size)

    def pop_episodes(self) -> Episodes:
        """The episodes finished since last asked."""
        finished, self._finished = np.array(self._finished, np.float64).reshape(-1, 2), []
        return Episodes(finished[:, 0], finished[:, 1].astype(np.int64))

    def close(self) -> None:
        self.environments.close()


class Evaluation:
    """Exactly `episodes` episodes with fixed seeds, none preferred for being short.

    Counting the first so many episodes to finish in a vector of environments favours short ones. Here every slot of
    the vector plays one episode from its start, and a new round begins when the last of them has ended.

    Args:
        environments: makes the environments, which are kept until `close`.
        episodes: how many are played.
        seed: of the first episode; fixed, so that every evaluation starts from the same states.
    """

    def __init__(self, environments: Callable[[], Environments], episodes: int, seed: int) -> None:
        self.episodes = episodes
        self.seed = seed
        self._make = environments
        self._environments: Environments | None = None

    def run(self, policy: Policy) -> Episodes:
        if self._environments is None:
            self._environments = self._make()
        environments = self._environments
        rounds = []
        for first in range(0, self.episodes, environments.num_envs):
            environments.reset(self.seed + first)
            running = np.arange(environments.num_envs) < self.episodes - first
            counted = int(running.sum())
            returns, lengths = np.zeros(len(running)), np.zeros(len(running), np.int64)
            while running.any():
                step = environments.step(policy(environments.observations))
                returns += np.where(running, step.reward, 0.0)
                lengths += running
                if step.done is not None:
                    running &= ~step.done
            rounds.append((returns[:counted], lengths[:counted]))
        return Episodes(*map(np.concatenate, zip(*rounds, strict=True)))

    def close(self) -> None:
        if self._environments is not None:
            self._environments.close()
            self._environments = None
