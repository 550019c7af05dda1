"""The agents' life in their training environments."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode

from trilab.data.rl.environments import Environments
from trilab.data.rl.spec import FIRST_TRAINING_SEED

#: Observations (rows, *shape), and which agents act (None: all) -> actions (rows,) int64.
Policy = Callable[[np.ndarray, np.ndarray | None], np.ndarray]

#: How many of an agent's latest episodes its running mean is taken over.
RUNNING = 100


class Sink(Protocol):
    """What takes the transitions of one step of all environments: a replay, or a learner that needs none."""

    def __call__(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        next_observation: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        valid: np.ndarray | None,
    ) -> None: ...


class Finished(NamedTuple):
    """Means over one agent's episodes; None where it has finished none."""

    return_mean: float | None  # undiscounted, unclipped; of the episodes since last asked
    return_running: float | None  # of its last hundred
    length_mean: float | None  # environment steps


class Experience:
    """Training environments of one agent, or of several that learn side by side.

    Counts in environment steps of each agent, which are its transitions, whatever the number of environments.

    Args:
        environments: stepped in turn with the learning.
        seeds: of each agent's environments.
        total_env_steps: each agent's budget; schedules are shares of it.
        env_steps_per_iteration: environment steps of one training step.
        replay_capacity: transitions that a replay of an agent should hold.
        batch_size: transitions in a batch of an agent.
        learning_starts: environment steps before the first update.
        reward_clip: bound of what is learned from; episodes are counted unclipped. None: no bound.
        keep_replay: whether a checkpoint should hold the replay.
    """

    def __init__(
        self,
        environments: Environments,
        *,
        seeds: Sequence[int],
        total_env_steps: int,
        env_steps_per_iteration: int,
        replay_capacity: int,
        batch_size: int,
        learning_starts: int,
        reward_clip: float | None = None,
        keep_replay: bool = True,
    ) -> None:
        self.environments = environments
        self.total_env_steps = total_env_steps
        self.env_steps_per_iteration = env_steps_per_iteration
        self.replay_capacity = replay_capacity
        self.batch_size = batch_size
        self.learning_starts = learning_starts
        self.reward_clip = reward_clip
        self.keep_replay = keep_replay
        #: Environment steps of every agent, at least; those of several need not be equal at every moment.
        self.env_steps = 0
        #: Where the current training step is over.
        self.iteration_ends = 0
        #: Where learning may begin: `learning_starts` after the replay was last empty.
        self.learns_from = learning_starts
        #: Whether the environments went on where a checkpoint left them.
        self.continued = True
        agents, rows = environments.agents, environments.agents * environments.num_envs
        # Environments that spend a step on their reset let agents fall out of step with each other.
        self._apart = agents > 1 and environments.mode is AutoresetMode.NEXT_STEP
        self._steps = np.zeros(agents, np.int64)  # of each agent, where they may differ
        environments.reset([_environment_seed(seed) for seed in seeds])
        self._returns = np.zeros(rows)
        self._lengths = np.zeros(rows, np.int64)
        self._new: list[list[tuple[float, int]]] = [[] for _ in range(agents)]
        self._latest: list[deque[float]] = [deque(maxlen=RUNNING) for _ in range(agents)]

    def next_iteration(self) -> int:
        """Begins a training step, and returns the number of environment steps at which it is over.

        On a fixed grid, so that the few steps by which environments overshoot never add up, nor decide anything.
        """
        self.iteration_ends = min(self.iteration_ends + self.env_steps_per_iteration, self.total_env_steps)
        return self.iteration_ends

    def collect(self, policy: Policy, until: int, sink: Sink) -> None:
        """Acts until every agent has taken `until` environment steps, in whole steps of all environments of each."""
        if self._apart:
            self._collect_apart(policy, until, sink)
            return
        environments, clip = self.environments, self.reward_clip
        while self.env_steps < until:
            observation = environments.observations
            action = policy(observation, None)
            step = environments.step(action)
            reward, valid = step.reward, step.valid
            learned = reward if clip is None else np.clip(reward, -clip, clip)
            sink(observation, action, learned, step.next_observation, step.terminated, step.truncated, valid)
            if valid is None:
                self.env_steps += environments.num_envs
                self._returns += reward
                self._lengths += 1
            else:
                self.env_steps += int(valid.sum())
                self._returns += np.where(valid, reward, 0.0)
                self._lengths += valid
            if step.done is not None:
                self._end_episodes(step.done)

    def _collect_apart(self, policy: Policy, until: int, sink: Sink) -> None:
        """The same for agents of which some may be ahead: those wait, exactly as they would alone."""
        environments, clip = self.environments, self.reward_clip
        while (behind := self._steps < until).any():
            observation = environments.observations
            action = policy(observation, behind)
            step = environments.step(action, behind)
            valid = step.valid
            if valid is None:
                valid = np.repeat(behind, environments.num_envs)
            learned = step.reward if clip is None else np.clip(step.reward, -clip, clip)
            sink(observation, action, learned, step.next_observation, step.terminated, step.truncated, valid)
            self._steps += valid.reshape(environments.agents, -1).sum(1)
            self._returns += np.where(valid, step.reward, 0.0)
            self._lengths += valid
            if step.done is not None:
                self._end_episodes(step.done & valid)
        self.env_steps = int(self._steps.min())

    def _end_episodes(self, done: np.ndarray) -> None:
        for row in np.flatnonzero(done).tolist():
            agent, total = row // self.environments.num_envs, float(self._returns[row])
            self._new[agent].append((total, int(self._lengths[row])))
            self._latest[agent].append(total)
        self._returns[done] = 0.0
        self._lengths[done] = 0

    def pop_episodes(self) -> list[Finished]:
        """Each agent's episodes finished since last asked."""
        finished = []
        for agent, new in enumerate(self._new):
            latest = self._latest[agent]
            running = sum(latest) / len(latest) if latest else None
            if new:
                returns, lengths = zip(*new, strict=True)
                finished.append(Finished(sum(returns) / len(new), running, sum(lengths) / len(new)))
            else:
                finished.append(Finished(None, running, None))
            new.clear()
        return finished

    def state_dict(self) -> dict[str, Any]:
        return {
            "env_steps": self.env_steps,
            "steps": self._steps.tolist(),
            "iteration_ends": self.iteration_ends,
            "learns_from": self.learns_from,
            "environments": self.environments.state_dict(),
            "returns": self._returns.tolist(),
            "lengths": self._lengths.tolist(),
            "new": [[list(episode) for episode in new] for new in self._new],
            "latest": [list(latest) for latest in self._latest],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another left off; where the environments cannot, they begin new episodes (`continued`)."""
        self.env_steps = int(state["env_steps"])
        self._steps[:] = state["steps"]
        self.iteration_ends = int(state["iteration_ends"])
        self.learns_from = int(state["learns_from"])
        self._latest = [deque(latest, maxlen=RUNNING) for latest in state["latest"]]
        self._new = [[(total, int(length)) for total, length in new] for new in state["new"]]
        self.continued = self.environments.load_state_dict(state["environments"])
        if self.continued:
            self._returns[:] = state["returns"]
            self._lengths[:] = state["lengths"]

    def close(self) -> None:
        self.environments.close()


def _environment_seed(seed: int) -> int:
    """A place above every seed that evaluation plays, apart from that of other seeds."""
    return FIRST_TRAINING_SEED + int(np.random.SeedSequence(seed).generate_state(1)[0]) // 8
