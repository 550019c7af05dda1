"""The pure functions against loops written down naively, on numbers small enough to check by hand."""

import copy

import numpy as np
import pytest
import torch

from trilab.data.rl.spec import EnvSpec
from trilab.models.rl.exploration import EpsilonGreedy, LinearEpsilon
from trilab.models.rl.networks import MLP
from trilab.models.rl.targets import double_dqn_target, dqn_target, td_loss, update_target

REWARD = torch.tensor([1.0, 2.0, -1.0])
TERMINATED = torch.tensor([0.0, 1.0, 0.0])
ONLINE = torch.tensor([[1.0, 5.0, 2.0], [9.0, 0.0, 0.0], [0.0, 0.0, 7.0]])
TARGET = torch.tensor([[3.0, 2.0, 4.0], [8.0, 8.0, 8.0], [6.0, 0.0, -2.0]])


def test_dqn_target_by_hand():
    # 1 + 0.5 * 4;  2, terminated;  -1 + 0.5 * 6
    assert dqn_target(REWARD, TERMINATED, 0.5, TARGET).tolist() == [3.0, 2.0, 2.0]


def test_double_dqn_target_by_hand():
    # The online network picks actions 1, 0, 2:  1 + 0.5 * 2;  2;  -1 + 0.5 * -2
    assert double_dqn_target(REWARD, TERMINATED, 0.5, ONLINE, TARGET).tolist() == [2.0, 2.0, -2.0]


def test_targets_match_naive_loops():
    generator = torch.Generator().manual_seed(0)
    reward, online, target = (torch.randn(shape, generator=generator) for shape in ((64,), (64, 5), (64, 5)))
    terminated = (torch.rand(64, generator=generator) < 0.3).float()
    gamma = torch.rand(64, generator=generator)  # one each, as n-step targets have
    plain, double = [], []
    for b in range(64):
        best = max(target[b].tolist())
        chosen = max(range(5), key=lambda a: online[b, a].item())
        future = 0.0 if terminated[b] else gamma[b].item()
        plain.append(reward[b].item() + future * best)
        double.append(reward[b].item() + future * target[b, chosen].item())
    torch.testing.assert_close(dqn_target(reward, terminated, gamma, target), torch.tensor(plain))
    torch.testing.assert_close(double_dqn_target(reward, terminated, gamma, online, target), torch.tensor(double))


def test_losses_by_hand():
    value, target = torch.tensor([0.0, 0.0]), torch.tensor([0.5, -3.0])
    assert td_loss(value, target, "mse").item() == pytest.approx((0.25 + 9) / 2)
    assert td_loss(value, target, "huber").item() == pytest.approx((0.125 + 2.5) / 2)


@pytest.mark.parametrize("tau", [1.0, 0.25, 0.0])
def test_target_updates(tau):
    online = [torch.full((2, 2), 8.0), torch.full((3,), -4.0)]
    target = [torch.full((2, 2), 4.0), torch.full((3,), 4.0)]
    update_target(target, online, tau)
    assert (target[0] == 4 + 4 * tau).all()
    assert (target[1] == 4 - 8 * tau).all()
    assert (online[0] == 8).all()


def test_linear_epsilon():
    epsilon = LinearEpsilon(start=1.0, end=0.2, fraction=0.5)
    assert [epsilon(p) for p in (0.0, 0.25, 0.5, 0.9, 1.0)] == pytest.approx([1.0, 0.6, 0.2, 0.2, 0.2])
    assert LinearEpsilon(start=1.0, end=0.2, fraction=0.0)(0.0) == 0.2


def test_each_environment_draws_its_own_coin():
    explore = EpsilonGreedy(num_actions=4, seed=1)
    observations = np.zeros((8, 2), np.float32)
    actions = np.stack([explore(observations, lambda obs: np.full(len(obs), 9), 0.3) for _ in range(4000)])
    explored = actions != 9  # greedy actions stand out, so that exploring ones can be counted
    assert explored.mean(0) == pytest.approx(np.full(8, 0.3), abs=0.03)
    # Independent coins: all eight agree with probability 0.3^8 + 0.7^8 = 0.058; one coin for all would give 1.
    assert (explored.all(1) | ~explored.any(1)).mean() == pytest.approx(0.058, abs=0.015)
    counts = np.bincount(actions[explored])
    assert len(counts) == 4
    assert counts / counts.sum() == pytest.approx(np.full(4, 0.25), abs=0.02)


def test_the_network_is_not_asked_when_every_coin_says_explore():
    def never(observations):
        raise AssertionError

    explore = EpsilonGreedy(num_actions=3, seed=0)
    assert set(explore(np.zeros((100, 1)), never, 1.0).tolist()) == {0, 1, 2}


def test_numpy_forward_is_the_same_network_and_follows_updates():
    network = MLP(EnvSpec("Toy-v0", (4,), "float32", 3, None), hidden=[16, 8])
    observation = torch.randn(5, 4)
    forward = network.numpy_forward()
    for _ in range(2):
        np.testing.assert_allclose(
            forward(observation.numpy()), network(observation).detach().numpy(), rtol=1e-5, atol=1e-6
        )
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.5).add_(0.1)
    assert copy.deepcopy(network).double().numpy_forward() is None


def test_byte_observations_are_scaled():
    network = MLP(EnvSpec("Toy-v0", (2, 3), "uint8", 3, None), hidden=[])
    with torch.no_grad():
        network.head.weight.fill_(1.0)
        network.head.bias.zero_()
    image = torch.full((1, 2, 3), 255, dtype=torch.uint8)
    assert network(image).tolist()[0] == pytest.approx([6.0, 6.0, 6.0])
    assert network.numpy_forward()(image.numpy())[0].tolist() == pytest.approx([6.0, 6.0, 6.0])
