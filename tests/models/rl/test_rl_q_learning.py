"""The table, against value iteration and against steps done by hand."""

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from rl_agents import make_data, make_trainer

from trilab.data.rl.datamodule import GymnasiumData
from trilab.errors import UserError
from trilab.models.rl.exploration import LinearEpsilon
from trilab.models.rl.q_learning import QLearning, q_learning_error
from trilab.models.schedules import Constant, Linear


def make_table(data, schedule=None, lr=0.1, optimizer=torch.optim.SGD, **changes):
    data.setup("fit")
    settings = {"epsilon": LinearEpsilon(1.0, 0.1, 0.8), "eval_epsilon": 0.0, "gamma": 0.9, "initial_value": 0.0}
    settings |= {"env_steps_per_update": 10, "seed": 3} | changes
    return QLearning(data.spec, functools.partial(optimizer, lr=lr), schedule or Constant(), **settings)


def frozen_lake(**changes):
    return make_data(**{"env_id": "FrozenLake-v1", "env_kwargs": {"is_slippery": False}} | changes)


def optimal_values(env_id, gamma, **kwargs):
    """Value iteration on the environment's own table of transitions."""
    env = gym.make(env_id, **kwargs)
    transitions = env.unwrapped.P
    values = np.zeros((env.observation_space.n, env.action_space.n))
    for _ in range(2000):
        for s, by_action in transitions.items():
            for a, outcomes in by_action.items():
                values[s, a] = sum(p * (r + gamma * (not end) * values[s2].max()) for p, s2, r, end in outcomes)
    return values


def test_the_error_by_hand():
    error = q_learning_error(
        value=np.array([1.0, 2.0]),
        reward=np.array([0.5, 0.5]),
        terminated=np.array([False, True]),
        gamma=0.9,
        next_values=np.array([[3.0, 5.0], [3.0, 5.0]]),
    )
    assert error == pytest.approx([0.5 + 0.9 * 5.0 - 1.0, 0.5 - 2.0])


def test_values_are_those_of_value_iteration():
    data = frozen_lake(total_env_steps=30_000, env_steps_per_epoch=30_000, env_steps_per_iteration=1000)
    agent = make_table(data, lr=0.5)
    make_trainer().fit(agent, datamodule=data)
    expected = optimal_values("FrozenLake-v1", 0.9, is_slippery=False)
    tried = agent.table.data.numpy() != 0
    np.testing.assert_allclose(agent.table.data.numpy()[tried], expected[tried], atol=0.02)
    assert agent.table.data[0].max() == pytest.approx(0.9**5, abs=0.01), "the goal is six steps away"


@pytest.mark.parametrize("num_envs", [1, 3])
def test_steps_are_those_of_a_loop_written_by_hand(num_envs):
    data = frozen_lake(num_envs=num_envs, env_steps_per_iteration=60)
    agent = make_table(data, schedule=Linear(final=0.0))
    taken = []
    inner = agent.begin

    def begin(experience, restored):
        sink = inner(experience, restored)

        def spy(*columns):
            taken.append((agent._alpha, *(None if column is None else column.copy() for column in columns)))
            sink(*columns)

        return spy

    agent.begin = begin
    make_trainer().fit(agent, datamodule=data)
    table = np.zeros((16, 4))
    for alpha, *columns, _ in taken:
        for s, a, r, s2, terminated, _truncated in zip(*columns, strict=True):
            table[s, a] += alpha * (r + 0.9 * (1 - terminated) * table[s2].max() - table[s, a])
    assert len(taken) * num_envs == 600
    assert taken[0][0] == pytest.approx(0.1)
    assert taken[-1][0] == pytest.approx(0.1 * 10 / 600, rel=0.7), "the schedule has nearly run out"
    np.testing.assert_allclose(agent.table.data.numpy(), table, atol=1e-6)


def test_agents_side_by_side_are_those_trained_alone():
    def alone(seed):
        data = frozen_lake(seed=seed, total_env_steps=3000)
        agent = make_table(data, seed=seed, lr=0.5)
        make_trainer().fit(agent, datamodule=data)
        return agent.table.data

    members = [frozen_lake(seed=seed, total_env_steps=3000) for seed in (1, 2)]
    together = QLearning.joined(
        [make_table(data, seed=seed, lr=0.5) for data, seed in zip(members, (1, 2), strict=True)]
    )
    make_trainer().fit(together, datamodule=GymnasiumData.joined(members))
    for k, seed in enumerate((1, 2)):
        torch.testing.assert_close(together.agent_state(k)["table"], alone(seed))
    assert not torch.equal(together.table[0], together.table[1])


def test_learning_beats_knowing_nothing():
    """Slippery: a random walk reaches the goal in 1.5% of the episodes, the best policy in about 74%."""
    data = make_data(
        env_id="FrozenLake-v1",
        env_kwargs={"is_slippery": True},
        total_env_steps=40_000,
        env_steps_per_epoch=40_000,
        env_steps_per_iteration=1000,
        val_episodes=200,
        eval_envs=200,
    )
    agent = make_table(data, gamma=0.99, schedule=Linear(final=0.01), lr=0.3, initial_value=0.5)
    trainer = make_trainer()
    trainer.fit(agent, datamodule=data)
    assert trainer.callback_metrics["val/return_mean"] > 0.4


def test_what_a_table_cannot_do_is_said():
    with pytest.raises(UserError, match="number of a state"):
        make_table(make_data())
    data = frozen_lake()
    agent = make_table(data, optimizer=torch.optim.Adam)
    with pytest.raises(UserError, match="optimizer=sgd"):
        make_trainer().fit(agent, datamodule=data)
