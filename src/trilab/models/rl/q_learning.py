"""Tabular Q-learning.

Idea: a table of Q(s, a), mended after every step by what the step showed (Watkins & Dayan 1992,
https://doi.org/10.1007/BF00992698; Sutton & Barto 2018, eq. 6.8):

    Q(s, a) <- Q(s, a) + alpha (r + gamma (1 - terminated) max_a' Q(s', a') - Q(s, a))

No replay and no gradient: each transition is learned from once, when it happens. alpha is the optimiser's learning rate
times the schedule's factor, for the update is a step of plain gradient descent on half the squared error.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from trilab.data.rl.experience import Experience, Sink
from trilab.data.rl.spec import EnvSpec
from trilab.errors import UserError
from trilab.models.module import OptimizerFactory
from trilab.models.rl.agent import ActionValues, Agent
from trilab.models.rl.exploration import EpsilonSchedule
from trilab.models.schedules import Schedule
from trilab.ranges import Fraction, NonNegativeInt, PositiveInt


class QLearning(Agent):
    """A table of action values for environments whose observations are the numbers of states.

    Args:
        spec: the environment.
        optimizer: plain SGD; its learning rate is alpha.
        schedule: factor of alpha by the share of the environment steps spent.
        epsilon: probability of a random action by the share of the environment steps spent.
        eval_epsilon: the same in validation and test.
        gamma: discount per environment step.
        initial_value: of every entry; above what can be obtained it makes the agent try everything.
        env_steps_per_update: environment steps after which alpha and epsilon are renewed; learning is by the step.
        seed: of exploration.
    """

    def __init__(
        self,
        spec: EnvSpec,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        epsilon: EpsilonSchedule,
        eval_epsilon: Fraction,
        gamma: Fraction,
        initial_value: float,
        env_steps_per_update: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(spec, optimizer, schedule, epsilon, eval_epsilon, gamma, env_steps_per_update, seed)
        if spec.num_states is None:
            raise UserError(
                f"{spec.env_id} has observations of shape {spec.observation_shape}: a table needs the number of a "
                "state, as in FrozenLake-v1. Choose model=rl/dqn, or a data option such as data=rl/frozen_lake."
            )
        self.table = nn.Parameter(torch.full((spec.num_states, spec.num_actions), initial_value), requires_grad=False)
        self._alpha = 0.0

    def join(self, members: Sequence[Self]) -> None:
        self.table = nn.Parameter(torch.stack([member.table.data for member in members]), requires_grad=False)

    def agent_state(self, k: int) -> dict[str, Tensor]:
        return {"table": self.table.data[k] if self.agents > 1 else self.table.data}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.make_optimizer([self.table])
        if not isinstance(optimizer, torch.optim.SGD) or optimizer.defaults["momentum"]:
            raise UserError("model=rl/q_learning takes steps of plain gradient descent: optimizer=sgd, momentum 0.")
        return optimizer

    def _numpy_table(self) -> np.ndarray:
        """(agents, states, actions), on the parameter's memory."""
        if self.table.device.type != "cpu":
            raise UserError("model=rl/q_learning learns from one transition at a time, on the CPU: accelerator=cpu.")
        return self.table.data.numpy().reshape(self.agents, *self.table.shape[-2:])

    def begin(self, experience: Experience, restored: Mapping[str, Any]) -> Sink:
        table = self._numpy_table()
        num_envs = experience.environments.num_envs
        self._squares = np.zeros(self.agents)
        self._count = 0
        self._alpha = self._learning_rate(experience.env_steps / experience.total_env_steps)

        def learn_one(
            observation: np.ndarray,
            action: np.ndarray,
            reward: np.ndarray,
            next_observation: np.ndarray,
            terminated: np.ndarray,
            truncated: np.ndarray,
            valid: np.ndarray | None,
        ) -> None:
            values, a = table[0, observation[0]], action[0]
            bootstrap = 0.0 if terminated[0] else self.gamma * table[0, next_observation[0]].max()
            error = reward[0] + bootstrap - values[a]
            values[a] += self._alpha * error
            self._squares[0] += error * error
            self._count += 1

        def learn(
            observation: np.ndarray,
            action: np.ndarray,
            reward: np.ndarray,
            next_observation: np.ndarray,
            terminated: np.ndarray,
            truncated: np.ndarray,
            valid: np.ndarray | None,
        ) -> None:
            # One environment after the other, as if each had been alone; all agents at once.
            for i in range(num_envs):
                agents = np.arange(self.agents)
                rows = agents * num_envs + i
                if valid is not None:
                    agents, rows = agents[valid[rows]], rows[valid[rows]]
                s, a = observation[rows], action[rows]
                error = q_learning_error(
                    table[agents, s, a],
                    reward[rows],
                    terminated[rows],
                    self.gamma,
                    table[agents, next_observation[rows]],
                )
                table[agents, s, a] += self._alpha * error
                self._squares[agents] += error * error
                self._count += 1

        alone = self.agents == num_envs == 1 and experience.environments.mode is not AutoresetMode.NEXT_STEP
        return learn_one if alone else learn

    def _learning_rate(self, share: float) -> float:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.set_learning_rate(optimizer, share)
        return float(optimizer.param_groups[0]["lr"])

    def learn(self, experience: Experience, optimizer: torch.optim.Optimizer, now: int, most: float) -> list[Tensor]:
        self._alpha = self._learning_rate(now / experience.total_env_steps)
        if not self._count:
            return []
        loss = torch.from_numpy(self._squares / self._count).float()
        self._squares[:], self._count = 0.0, 0
        return [loss if self.agents > 1 else loss[0]]

    def action_values(self, exploring: bool) -> ActionValues:
        table = self._numpy_table()
        agents = self.agents

        def act(observations: np.ndarray) -> np.ndarray:
            if agents == 1:
                return table[0, observations]
            return table[np.repeat(np.arange(agents), len(observations) // agents), observations]

        return act

    def learning_state(self) -> dict[str, Any]:
        return {}


def q_learning_error(
    value: np.ndarray, reward: np.ndarray, terminated: np.ndarray, gamma: float, next_values: np.ndarray
) -> np.ndarray:
    """r + gamma (1 - terminated) max_a' Q(s', a') - Q(s, a)

    Args:
        value: (rows,) Q(s, a)
        reward: (rows,)
        terminated: (rows,) bool; truncation is not termination.
        gamma: discount.
        next_values: (rows, actions) Q(s', ·)
    """
    return reward + gamma * ~terminated * next_values.max(-1) - value
