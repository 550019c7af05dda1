"""C51 and QR against the papers' algorithms as loops over samples and atoms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trilab.errors import ConfigError
from trilab.models.rl.distributional import C51, QR, Scalar
from trilab.models.rl.targets import double_dqn_target, dqn_target


def project(probabilities, reward, discount, v_min, v_max):
    """Algorithm 1 of Bellemare et al. for one sample, in double precision; a whole b puts all on its own atom."""
    atoms = len(probabilities)
    step = (v_max - v_min) / (atoms - 1)
    projected = [0.0] * atoms
    for j, p in enumerate(probabilities):
        moved = min(max(reward + discount * (v_min + j * step), v_min), v_max)
        b = (moved - v_min) / step
        low, high = math.floor(b + 1e-9), math.ceil(b - 1e-9)
        if low == high:
            projected[low] += p
        else:
            projected[low] += p * (high - b)
            projected[high] += p * (b - low)
    return projected


def batch(*shape, actions=3, atoms=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target, online = (torch.randn(*shape, actions, atoms, generator=generator) * 2 for _ in range(2))
    reward = torch.randn(*shape, generator=generator) * 3
    discount = torch.rand(*shape, generator=generator)
    discount[..., ::3] = 0.0  # terminal states
    action = torch.randint(actions, shape, generator=generator)
    return target, online, reward, discount, action


@pytest.mark.parametrize("shape", [(9,), (2, 9)])
@pytest.mark.parametrize("double", [False, True])
def test_c51_target_is_algorithm_1(shape, double):
    returns = C51(atoms=11, v_min=-4.0, v_max=6.0)
    target, online, reward, discount, _ = batch(*shape)
    projected = returns.target(target, online if double else target, reward, discount)
    assert projected.shape == (*shape, 11)
    support = torch.linspace(-4, 6, 11)
    for where in np.ndindex(shape):
        chooser = (online if double else target)[where].softmax(-1)
        action = max(range(3), key=lambda a: float((chooser[a] * support).sum()))
        naive = project(
            target[where][action].double().softmax(-1).tolist(), reward[where].item(), discount[where].item(), -4.0, 6.0
        )
        assert projected[where].tolist() == pytest.approx(naive, abs=2e-6)
        assert projected[where].sum().item() == pytest.approx(1.0, abs=1e-6)


def test_c51_projection_by_hand():
    """Atoms 0, 1, 2, 3 and Z(s', a') = 0, 1, 2, 3 with 0.1, 0.2, 0.3, 0.4."""
    returns = C51(atoms=4, v_min=0.0, v_max=3.0)
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    output = probabilities.log().expand(1, 1, 4)

    def projected(reward, discount):
        return returns.target(output, output, torch.tensor([reward]), torch.tensor([discount]))[0].tolist()

    assert projected(0.0, 1.0) == pytest.approx([0.1, 0.2, 0.3, 0.4])  # every b is a whole number
    assert projected(1.0, 1.0) == pytest.approx([0.0, 0.1, 0.2, 0.7])  # a whole step up, clipped at the top
    assert projected(0.5, 1.0) == pytest.approx([0.05, 0.15, 0.25, 0.55])  # half a step
    assert projected(0.0, 0.5) == pytest.approx([0.2, 0.6, 0.2, 0.0])  # at 0, 0.5, 1, 1.5
    assert projected(2.25, 0.0) == pytest.approx([0.0, 0.0, 0.75, 0.25])  # terminal: all at 2.25
    assert projected(-9.0, 0.0) == pytest.approx([1.0, 0.0, 0.0, 0.0])  # below the support
    assert projected(9.0, 0.0) == pytest.approx([0.0, 0.0, 0.0, 1.0])  # above it


def test_c51_loss_is_cross_entropy_less_the_targets_entropy():
    returns = C51(atoms=11, v_min=-4.0, v_max=6.0)
    target, online, reward, discount, action = batch(9)
    projected = returns.target(target, target, reward, discount)
    output = online.clone().requires_grad_()
    losses = returns.loss(output, action, projected)
    losses.sum().backward()
    again = online.clone().requires_grad_()
    for i in range(9):
        logits = again[i, action[i]]
        cross_entropy = -(projected[i] * logits.log_softmax(-1)).sum()
        entropy = -sum(p * math.log(p) for p in projected[i].tolist() if p > 0)
        assert losses[i].item() == pytest.approx(cross_entropy.item() - entropy, abs=1e-5)
        cross_entropy.backward()
    torch.testing.assert_close(output.grad, again.grad)
    assert (losses >= 0).all()
    torch.testing.assert_close(returns.priority(online, action, projected), losses.detach())


def test_c51_loss_of_a_perfect_prediction_is_nothing():
    returns = C51(atoms=5, v_min=0.0, v_max=1.0)
    output = torch.randn(4, 2, 5)
    action = torch.tensor([0, 1, 0, 1])
    own = output[torch.arange(4), action].softmax(-1)
    assert returns.loss(output, action, own).tolist() == pytest.approx([0.0] * 4, abs=1e-6)
    assert (returns.priority(output, action, own) >= 0).all()
    assert returns.td_error(output, action, own).tolist() == pytest.approx([0.0] * 4, abs=1e-6)


@pytest.mark.parametrize("shape", [(7,), (2, 7)])
@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
def test_qr_loss_by_a_double_loop(shape, kappa):
    returns = QR(atoms=4, kappa=kappa)
    target, online, reward, discount, action = batch(*shape, atoms=4)
    goal = returns.target(target, target, reward, discount)
    losses = returns.loss(online, action, goal)
    assert losses.shape == shape
    for where in np.ndindex(shape):
        theta = online[where][action[where]].tolist()
        naive = 0.0
        for i in range(4):
            tau = (2 * (i + 1) - 1) / 8
            for y in goal[where].tolist():
                u = y - theta[i]
                small = abs(u) <= kappa
                huber = abs(u) if kappa == 0 else 0.5 * u * u if small else kappa * (abs(u) - 0.5 * kappa)
                naive += abs(tau - (u < 0)) * huber / 4
        assert losses[where].item() == pytest.approx(naive, rel=1e-5)


def test_qr_target_moves_the_chosen_actions_quantiles():
    returns = QR(atoms=2, kappa=1.0)
    target = torch.tensor([[[0.0, 1.0], [2.0, 4.0]], [[9.0, 9.0], [1.0, 1.0]]])
    online = torch.tensor([[[5.0, 5.0], [0.0, 0.0]], [[0.0, 3.0], [1.0, 1.0]]])
    reward, discount = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])
    assert returns.target(target, target, reward, discount).tolist() == [[2.0, 3.0], [2.0, 2.0]]
    assert returns.target(target, online, reward, discount).tolist() == [[1.0, 1.5], [2.0, 2.0]]


def test_qr_learns_the_quantiles():
    """The loss is least at the quantiles 1/8, 3/8, 5/8 and 7/8 of what the targets come from."""
    returns = QR(atoms=4, kappa=0.0)
    samples = torch.linspace(0.0, 1.0, 400).view(100, 4)[:, torch.randperm(4)]
    theta = torch.zeros(1, 1, 4, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        returns.loss(theta.expand(100, 1, 4), torch.zeros(100, dtype=torch.int64), samples).mean().backward()
        optimizer.step()
    assert theta.flatten().tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=0.02)


@pytest.mark.parametrize("shape", [(6,), (3, 6)])
def test_scalar_is_plain_dqn(shape):
    returns = Scalar("mse")
    target, online, reward, discount, action = batch(*shape)
    target, online = target[..., 0], online[..., 0]  # (..., batch, actions)
    assert torch.equal(returns.target(target, target, reward, discount), dqn_target(reward, discount, target))
    double = returns.target(target, online, reward, discount)
    assert torch.equal(double, double_dqn_target(reward, discount, online, target))
    for where in np.ndindex(shape):
        error = double[where].item() - online[where][action[where]].item()
        assert returns.td_error(online, action, double)[where].item() == pytest.approx(error)
        assert returns.priority(online, action, double)[where].item() == pytest.approx(abs(error))
        assert returns.loss(online, action, double)[where].item() == pytest.approx(error**2)
        assert Scalar("huber").loss(online, action, double)[where].item() == pytest.approx(
            error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5
        )


ALL = [Scalar("huber"), C51(5, -1.0, 3.0), QR(5, 1.0)]


@pytest.mark.parametrize("returns", ALL, ids=lambda returns: type(returns).__name__)
@pytest.mark.parametrize("shape", [(6,), (2, 6)])
def test_values_and_errors(returns, shape):
    target, online, reward, discount, action = batch(*shape, atoms=5)
    if returns.atoms == 1:
        target, online = target[..., 0], online[..., 0]
    values = returns.values(online)
    assert values.shape == (*shape, 3)
    for where in np.ndindex(*shape, 3):
        numbers = online[where].tolist()
        if isinstance(returns, C51):
            weights = [math.exp(number) for number in numbers]
            expected = sum(w * z for w, z in zip(weights, [-1, 0, 1, 2, 3], strict=True)) / sum(weights)
        else:
            expected = numbers if returns.atoms == 1 else sum(numbers) / 5
        assert values[where].item() == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(returns.values_numpy(online.numpy()), values.numpy(), rtol=1e-5, atol=1e-5)

    goal = returns.target(target, online, reward, discount)
    mean = goal if returns.atoms == 1 else goal.mean(-1)
    if isinstance(returns, C51):
        mean = (goal * torch.linspace(-1, 3, 5)).sum(-1)
    expected = mean - values.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(returns.td_error(online, action, goal), expected)
    assert returns.priority(online, action, goal).shape == shape


@pytest.mark.parametrize("returns", ALL, ids=lambda returns: type(returns).__name__)
def test_everything_is_float32_and_the_target_has_no_gradient(returns):
    target, online, reward, discount, action = batch(4, atoms=5)
    if returns.atoms == 1:
        target, online = target[..., 0], online[..., 0]
    online = online.bfloat16().requires_grad_()
    target = target.bfloat16().requires_grad_()
    goal = returns.target(target, online, reward, discount)
    assert goal.dtype == torch.float32
    assert not goal.requires_grad
    loss = returns.loss(online, action, goal)
    assert loss.dtype == returns.values(online).dtype == returns.td_error(online, action, goal).dtype == torch.float32
    assert not returns.priority(online, action, goal).requires_grad
    loss.mean().backward()
    assert torch.isfinite(online.grad).all()
    untaken = torch.ones_like(online).index_put_((torch.arange(4), action), torch.zeros(()).bfloat16())
    assert not (online.grad * untaken).any()  # only the action that was taken is learned of


def test_extreme_logits_stay_finite():
    returns = C51(3, 0.0, 2.0)
    output = torch.tensor([[[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]]])
    assert returns.values(output).tolist() == [[0.0, 2.0]]
    assert returns.values_numpy(output.numpy()).tolist() == [[0.0, 2.0]]
    goal = returns.target(output, output, torch.tensor([0.0]), torch.tensor([1.0]))
    assert torch.isfinite(F.relu(returns.loss(output, torch.tensor([0]), goal))).all()


def test_what_cannot_be_is_named():
    with pytest.raises(ConfigError, match=r"model\.v_min=3.* is not below model\.v_max=3"):
        C51(51, 3.0, 3.0)
    with pytest.raises(ConfigError, match=r"model\.atoms=1\b"):
        C51(1, 0.0, 1.0)
    with pytest.raises(ConfigError, match=r"model\.atoms=1\b"):
        QR(1, 1.0)
