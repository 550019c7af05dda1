"""The gradient written out, against autograd's."""

import copy
import functools

import pytest
import torch
from rl_agents import fit

from trilab.data.rl.spec import EnvSpec
from trilab.models.rl.distributional import C51, Scalar
from trilab.models.rl.gradients import plain_backward, plain_forward, plain_layers, td_gradient
from trilab.models.rl.networks import QNetwork, stack

SPEC = EnvSpec("Test-v0", (4,), "float32", 3)


def network(spec=SPEC, **changes):
    settings = {"atoms": 1, "dueling": False, "dueling_rescale": True, "noisy": False, "noisy_sigma": 0.5}
    return QNetwork(spec, **settings | changes, hidden=[16, 8], trunk=None)


@pytest.mark.parametrize("kind", ["mse", "huber"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("agents", [None, 3])
def test_it_is_the_one_of_autograd(kind, weighted, agents):
    torch.manual_seed(1)
    net = network() if agents is None else stack([network() for _ in range(agents)])
    lead = () if agents is None else (agents,)
    observation, action = torch.randn(*lead, 32, 4), torch.randint(3, (*lead, 32))
    target, weight = 3 * torch.randn(*lead, 32), torch.rand(*lead, 32) if weighted else None
    twin, returns = copy.deepcopy(net), Scalar(kind)

    losses = returns.loss(twin(observation), action, target)
    expected = (losses if weight is None else losses * weight).mean(-1)
    expected.sum().backward()

    layers = plain_layers(net, returns)
    with torch.no_grad():
        output, inputs = plain_forward(layers, observation)
        loss, slope = td_gradient(output, action, target, weight, kind)
        plain_backward(layers, inputs, slope)

    torch.testing.assert_close(loss, expected.detach())
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert mine.grad.dtype == torch.float32
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_under_autocast_it_is_as_exact_as_autograds():
    torch.manual_seed(1)
    net, returns = network(), Scalar("mse")
    observation, action, target = torch.randn(256, 4), torch.randint(3, (256,)), torch.randn(256)
    exact = copy.deepcopy(net)
    returns.loss(exact(observation), action, target).mean().backward()
    theirs = copy.deepcopy(net)
    with torch.autocast("cpu", torch.bfloat16):
        returns.loss(theirs(observation), action, target).mean().backward()
        layers = plain_layers(net, returns)
        with torch.no_grad():
            output, inputs = plain_forward(layers, observation)
            assert output.dtype == torch.bfloat16
            plain_backward(layers, inputs, td_gradient(output, action, target, None, "mse")[1])

    def distance(a):
        pairs = zip(a.parameters(), exact.parameters(), strict=True)
        return sum((p.grad - q.grad).norm() / q.grad.norm() for p, q in pairs).item()

    assert all(parameter.grad.dtype == torch.float32 for parameter in net.parameters())
    assert distance(net) < 1.5 * distance(theirs) + 1e-3


@pytest.mark.parametrize(
    ("net", "returns"),
    [
        (network(dueling=True), Scalar("mse")),
        (network(noisy=True), Scalar("mse")),
        (network(atoms=5), C51(5, 0.0, 1.0)),
        (network(EnvSpec("Test-v0", (), "int64", 3, num_states=7)), Scalar("mse")),
        (network(EnvSpec("Test-v0", (4,), "uint8", 3)), Scalar("mse")),
    ],
    ids=["dueling", "noisy", "c51", "numbers of states", "bytes"],
)
def test_other_networks_are_left_to_autograd(net, returns):
    assert plain_layers(net, returns) is None


def test_training_is_the_same_either_way(monkeypatch):
    mine, _ = fit(double=True)
    monkeypatch.setattr("trilab.models.rl.dqn.plain_layers", lambda network, returns: None)
    theirs, _ = fit(double=True)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_compiling_the_loss_changes_nothing(monkeypatch):
    """What the knob does, with a compiler that runs in a moment."""
    eager = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda function, mode: eager(function))
    compiled, _ = fit(compile="default")
    reference, _ = fit()
    for a, b in zip(compiled.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
