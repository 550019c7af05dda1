"""The equations against a reading of them sample by sample, on numbers worked out by hand."""

import pytest
import torch

from trilab.models.rl.targets import double_dqn_target, dqn_target, td_loss, update_target

REWARD = torch.tensor([1.0, -2.0, 0.5])
DISCOUNT = torch.tensor([0.9, 0.0, 0.81])  # one step, a terminal state, a window of two steps
NEXT_TARGET = torch.tensor([[1.0, 3.0, 2.0], [10.0, 20.0, 30.0], [-4.0, -1.0, -2.0]])
NEXT_ONLINE = torch.tensor([[5.0, 0.0, 4.0], [1.0, 2.0, 3.0], [0.0, -1.0, 1.0]])


def test_dqn_target_by_hand():
    # 1 + 0.9 * 3; a terminal state has no future; 0.5 + 0.81 * -1
    assert dqn_target(REWARD, DISCOUNT, NEXT_TARGET).tolist() == pytest.approx([3.7, -2.0, -0.31])


def test_double_dqn_target_takes_the_online_networks_action_and_the_target_networks_value():
    # the online network chooses actions 0, 2 and 2: 1 + 0.9 * 1, the terminal state, 0.5 + 0.81 * -2
    target = double_dqn_target(REWARD, DISCOUNT, NEXT_ONLINE, NEXT_TARGET)
    assert target.tolist() == pytest.approx([1.9, -2.0, -1.12])


def test_targets_of_several_agents_are_each_agents_own():
    online, target = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    reward, discount = torch.randn(4, 3), torch.rand(4, 3)
    plain = dqn_target(reward, discount, target)
    double = double_dqn_target(reward, discount, online, target)
    for a in range(4):
        for i in range(3):
            values = target[a, i].tolist()
            r, g = reward[a, i].item(), discount[a, i].item()
            assert plain[a, i].item() == pytest.approx(r + g * max(values), rel=1e-5, abs=1e-6)
            chosen = max(range(5), key=lambda k: online[a, i, k].item())
            assert double[a, i].item() == pytest.approx(r + g * values[chosen], rel=1e-5, abs=1e-6)


def test_targets_are_float32_whatever_the_networks_are():
    low = NEXT_TARGET.bfloat16()
    assert dqn_target(REWARD, DISCOUNT, low).dtype == torch.float32
    assert double_dqn_target(REWARD, DISCOUNT, low, low).dtype == torch.float32
    assert td_loss(torch.zeros(3, dtype=torch.bfloat16), REWARD, "huber").dtype == torch.float32


@pytest.mark.parametrize("shape", [(5,), (2, 5)])
def test_td_loss_is_of_each_sample(shape):
    errors = torch.tensor([0.5, -0.5, 1.0, 3.0, -2.0])  # target minus value
    value = torch.full(shape, 2.0)
    target = (2.0 + errors).expand(shape)
    squares = [0.25, 0.25, 1.0, 9.0, 4.0]
    huber = [0.125, 0.125, 0.5, 2.5, 1.5]
    for kind, expected in (("mse", squares), ("huber", huber)):
        loss = td_loss(value, target, kind)
        assert loss.shape == shape
        torch.testing.assert_close(loss, torch.tensor(expected).expand(shape))


def test_td_loss_gradient():
    """2d for the square, d clipped to [-1, 1] for Huber."""
    errors = torch.tensor([0.5, -0.25, 3.0, -2.0])
    for kind, expected in (("mse", [1.0, -0.5, 6.0, -4.0]), ("huber", [0.5, -0.25, 1.0, -1.0])):
        value = errors.clone().requires_grad_()
        td_loss(value, torch.zeros(4), kind).sum().backward()
        assert value.grad.tolist() == pytest.approx(expected)


def test_update_target_copies_or_averages():
    online = [torch.tensor([1.0, 2.0]), torch.tensor([[4.0]])]
    target = [torch.tensor([0.0, 0.0]), torch.tensor([[8.0]])]
    update_target(target, online, 0.25)
    assert [t.flatten().tolist() for t in target] == [[0.25, 0.5], [7.0]]
    update_target(target, online, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(target, online, strict=True))
    assert target[0] is not online[0]
