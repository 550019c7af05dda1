"""Q-networks against a naive reading of their equations; one batch of agents against each of them alone."""

import copy
import io
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trilab.data.rl.spec import EnvSpec
from trilab.errors import ConfigError, UserError
from trilab.models.rl.layers import Linear, NoisyLinear, factorised, stack_modules, unstack
from trilab.models.rl.networks import QNetwork, stack
from trilab.models.rl.trunks import NatureCNN

VECTOR = EnvSpec("Vector-v0", (4,), "float32", 3)
STATES = EnvSpec("States-v0", (), "int64", 3, num_states=7)
BYTES = EnvSpec("Bytes-v0", (2, 3), "uint8", 3)
FRAMES = EnvSpec("Frames-v0", (2, 40, 44), "uint8", 3, frame_stack=2)
SPECS = [VECTOR, STATES, BYTES, FRAMES]


def make(spec=VECTOR, atoms=1, dueling=False, rescale=True, noisy=False, hidden=(16, 8), trunk=None):
    return QNetwork(
        spec=spec,
        atoms=atoms,
        dueling=dueling,
        dueling_rescale=rescale,
        noisy=noisy,
        noisy_sigma=0.5,
        hidden=hidden,
        trunk=trunk,
    )


def observe(spec, *shape):
    if spec.observation_dtype == "int64":
        return torch.randint(spec.num_states, shape)
    if spec.observation_dtype == "uint8":
        return torch.randint(256, (*shape, *spec.observation_shape), dtype=torch.uint8)
    return torch.randn(*shape, *spec.observation_shape)


# One network.


def test_a_plain_network_is_the_textbooks_with_the_textbooks_initialisation():
    torch.manual_seed(3)
    network = make(hidden=[16, 8])
    torch.manual_seed(3)
    plain = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.parameters(), strict=True))
    observation = observe(VECTOR, 5)
    torch.testing.assert_close(network(observation), plain(observation))


def test_dueling_takes_the_mean_over_actions_of_each_sample():
    network = make(dueling=True, hidden=[16, 8])
    observation = observe(VECTOR, 5)
    for i in range(5):
        x = torch.relu(F.linear(observation[i], network.body[0].weight, network.body[0].bias))
        value, advantage = (
            F.linear(torch.relu(F.linear(x, s[0].weight, s[0].bias)), s[1].weight, s[1].bias)
            for s in (network.value, network.advantage)
        )
        q = network(observation)[i].tolist()
        mean = sum(advantage.tolist()) / 3
        assert q == pytest.approx([value.item() + a - mean for a in advantage.tolist()], abs=1e-6)
        assert sum(q) / 3 == pytest.approx(value.item(), abs=1e-6)


def test_dueling_with_atoms_is_dueling_of_each_atom():
    network = make(dueling=True, atoms=5, hidden=[8])
    observation = observe(VECTOR, 6)
    q = network(observation)
    assert q.shape == (6, 3, 5)
    value, advantage = (s[1](torch.relu(s[0](observation))) for s in (network.value, network.advantage))
    for i, a, z in itertools.product(range(6), range(3), range(5)):
        own = advantage[i].view(3, 5)[:, z]
        expected = value[i, z] + own[a] - sum(own) / 3
        assert q[i, a, z].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("spec", "hidden"), [(VECTOR, [16, 8]), (VECTOR, [16, 8, 8]), (FRAMES, [8])])
def test_the_streams_gradient_enters_what_they_share_rescaled(spec, hidden):
    with_rescale, without = (
        make(spec, dueling=True, hidden=hidden),
        make(spec, dueling=True, rescale=False, hidden=hidden),
    )
    without.load_state_dict(with_rescale.state_dict())
    observation = observe(spec, 4)
    for network in (with_rescale, without):
        network(observation).square().sum().backward()
    torch.testing.assert_close(with_rescale(observation), without(observation), rtol=0, atol=0)
    for (name, mine), other in zip(with_rescale.named_parameters(), without.parameters(), strict=True):
        shared = not name.startswith(("value", "advantage"))
        torch.testing.assert_close(mine.grad, other.grad * (0.5**0.5 if shared else 1.0))


def test_nothing_is_rescaled_where_nothing_is_shared():
    assert not make(dueling=True, hidden=[8]).rescale
    assert not make(dueling=False, hidden=[16, 8]).rescale
    assert make(FRAMES, dueling=True, hidden=[]).rescale


@pytest.mark.parametrize("dueling", [False, True])
def test_numbers_of_states_are_one_hot_vectors(dueling):
    network = make(STATES, dueling=dueling, hidden=[8])
    vectors = make(EnvSpec("OneHot-v0", (7,), "float32", 3), dueling=dueling, hidden=[8])
    vectors.load_state_dict(network.state_dict())
    state = torch.tensor([0, 6, 3, 3])
    q, expected = network(state), vectors(F.one_hot(state, 7).float())
    torch.testing.assert_close(q, expected)
    q.square().sum().backward()
    expected.square().sum().backward()
    for mine, other in zip(network.parameters(), vectors.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_bytes_are_scaled():
    network = make(BYTES, hidden=[])
    with torch.no_grad():
        network.head.weight.fill_(1.0)
        network.head.bias.zero_()
    image = torch.full((1, 2, 3), 255, dtype=torch.uint8)
    assert network(image).tolist()[0] == pytest.approx([6.0, 6.0, 6.0])
    assert network.numpy_forward()(image.numpy())[0].tolist() == pytest.approx([6.0, 6.0, 6.0])


# Noise.


@pytest.mark.parametrize("rows", [1, 4])
def test_noisy_layer_is_the_papers_outer_product(rows):
    layer = NoisyLinear(5, 3, sigma=0.5)
    with torch.no_grad():
        layer.sigma_weight.normal_()
        layer.sigma_bias.normal_()
    x, noise = torch.randn(4, 5), torch.randn(rows, 8)
    y = layer(x, factorised(noise))
    for i in range(4):
        raw = noise[i if rows > 1 else 0].tolist()
        f = [(1 if n > 0 else -1) * abs(n) ** 0.5 for n in raw]
        for out in range(3):
            expected = layer.bias[out].item() + layer.sigma_bias[out].item() * f[5 + out]
            for into in range(5):
                epsilon = f[5 + out] * f[into]
                weight = layer.weight[out, into].item() + layer.sigma_weight[out, into].item() * epsilon
                expected += weight * x[i, into].item()
            assert y[i, out].item() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_noisy_layer_of_states_is_that_of_one_hot_vectors():
    layer, state = NoisyLinear(7, 3, sigma=0.5), torch.tensor([0, 6, 3])
    for rows in (1, 3):
        noise = factorised(torch.randn(rows, 10))
        torch.testing.assert_close(layer(state, noise), layer(F.one_hot(state, 7).float(), noise))


def test_mean_and_variance_of_a_noisy_layer():
    """E f(e)^2 = E|e| = sqrt(2/pi), so Var y = (2/pi) sum_i (sigma_i x_i)^2 + sqrt(2/pi) sigma_b^2."""
    layer, x = NoisyLinear(4, 2, sigma=0.5), torch.tensor([[1.0, -2.0, 0.5, 3.0]])
    y = layer(x, factorised(torch.randn(200_000, 6, generator=torch.Generator().manual_seed(0))))
    absolute = (2 / torch.pi) ** 0.5
    variance = absolute**2 * (0.25**2 * x.square().sum()) + absolute * 0.25**2
    torch.testing.assert_close(y.mean(0), layer(x)[0], rtol=0, atol=0.02)
    torch.testing.assert_close(y.var(0), variance.expand(2), rtol=0.03, atol=0)


def test_noisy_layers_start_as_in_section_3_2():
    layer = NoisyLinear(400, 300, sigma=0.5)
    bound = 400**-0.5
    for mean in (layer.weight, layer.bias):
        assert mean.abs().max() <= bound
        assert mean.mean().item() == pytest.approx(0.0, abs=3 * bound / (3 * mean.numel()) ** 0.5)
        assert mean.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert (layer.sigma_weight == 0.5 * bound).all()
    assert (layer.sigma_bias == 0.5 * bound).all()


@pytest.mark.parametrize("dueling", [False, True])
def test_every_layer_of_a_noisy_network_has_noise_of_its_own(dueling):
    network = make(noisy=True, dueling=dueling, hidden=[16, 8])
    layers = [(4, 16), *([(16, 8), (8, 1), (16, 8), (8, 3)] if dueling else [(16, 8), (8, 3)])]
    assert network.noise_size == sum(sum(layer) for layer in layers)
    observation = observe(VECTOR, 6)
    noise = torch.randn(6, network.noise_size, requires_grad=True)
    q = network(observation, noise)
    (gradient,) = torch.autograd.grad(q.square().sum(), noise)
    assert ((gradient != 0).float().mean(0) > 0).float().mean() > 0.9  # all but what sits behind dead units
    one_for_all = network(observation, noise[:1])
    torch.testing.assert_close(one_for_all, network(observation, noise[:1].expand(6, -1)))
    torch.testing.assert_close(network(observation), network(observation, torch.zeros(1, network.noise_size)))
    assert make(hidden=[16, 8]).noise_size == 0


# Images.


def test_nature_cnn_has_the_papers_shapes():
    network = make(EnvSpec("Pong", (4, 84, 84), "uint8", 6, frame_stack=4), hidden=[512])
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_687_206  # of the paper's network
    image = observe(network.spec, 2)
    x = image / 255
    for layer in (network.trunk.conv1, network.trunk.conv2, network.trunk.conv3):
        x = torch.relu(F.conv2d(x, layer.weight, layer.bias, stride=layer.stride))
    assert x.shape == (2, 64, 7, 7)
    x = torch.relu(network.body[0](x.flatten(1)))
    torch.testing.assert_close(network(image), network.head(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 60, 44), (1, 60, 44), (60, 44, 3)])
def test_the_memory_format_changes_nothing_but_the_speed(shape):
    network = make(EnvSpec("Images", shape, "uint8", 6), hidden=[8])
    image = observe(network.spec, 3)
    before = network(image)
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(image), before, rtol=1e-4, atol=1e-5)


def test_colours_may_come_last():
    network = make(EnvSpec("Raw", (60, 40, 3), "uint8", 6), hidden=[8])
    first = make(EnvSpec("Raw", (3, 60, 40), "uint8", 6), hidden=[8])
    first.load_state_dict(network.state_dict())
    image = observe(network.spec, 2)
    torch.testing.assert_close(network(image), first(image.movedim(-1, 1)), rtol=1e-4, atol=1e-5)


def test_an_image_too_small_is_refused():
    with pytest.raises(UserError, match="images of 35x84, and the Nature CNN needs 36x36"):
        make(EnvSpec("Small", (4, 35, 84), "uint8", 6, frame_stack=4))
    make(EnvSpec("Least", (1, 36, 36), "uint8", 6))


class Double(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.again = nn.Linear(6, 6)
        self.again.weight = nn.Parameter(torch.eye(6))
        self.same = self.again  # one module in two places
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        return torch.relu(self.same(self.again(self.linear(x)))) * self.scale


class Tied(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Dropping(nn.Sequential):
    def __init__(self, spec):
        super().__init__(nn.Linear(4, 6), nn.Dropout(0.5))


class Normed(nn.Sequential):
    def __init__(self, spec):
        super().__init__(nn.Linear(4, 6), nn.BatchNorm1d(6))


class Wrong(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.linear = nn.Linear(5, 6)

    def forward(self, x):
        return self.linear(x)


class Square(nn.Module):
    def __init__(self, spec):
        super().__init__()

    def forward(self, x):
        return x.unsqueeze(-1)


def test_a_trunk_of_ones_own():
    network = make(trunk=Double, hidden=[8])
    assert network.body[0].weight.shape == (8, 6)
    observation = observe(VECTOR, 5)
    x = network.trunk(observation)
    torch.testing.assert_close(network(observation), network.head(torch.relu(network.body[0](x))))
    assert network.numpy_forward() is None
    table = make(STATES, trunk=lambda spec: nn.Embedding(spec.num_states, 5), hidden=[8])
    assert table(torch.tensor([1, 6])).shape == (2, 3)


def test_a_trunk_is_measured_without_leaving_a_mark():
    network = make(trunk=Normed, hidden=[8])
    assert network.trunk.training
    assert network.trunk[1].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("trunk", "kind", "said"),
    [
        (Wrong, UserError, r"Wrong cannot take observations of shape \(2, 4\): mat1 and mat2"),
        (
            Square,
            UserError,
            r"Square makes \(2, 4, 1\) of observations of shape \(2, 4\); expected \(batch, features\)",
        ),
        (nn.Linear(4, 3), ConfigError, "expected null, or a _target_ with _partial_: true"),
        ("NatureCNN", ConfigError, "model.network.trunk=NatureCNN: expected null"),
        (NatureCNN, UserError, r"Vector-v0 has observations of shape \(4,\): the Nature CNN needs images"),
    ],
)
def test_a_trunk_that_does_not_fit_is_refused(trunk, kind, said):
    with pytest.raises(kind, match=said):
        make(trunk=trunk)


def test_a_trunk_that_no_batch_of_agents_can_take_is_refused():
    networks = [make(trunk=Dropping, hidden=[8]) for _ in range(2)]
    with pytest.raises(UserError, match=r"trainer\.seeds: model\.network\.trunk=Dropping cannot run as one batch"):
        stack(networks)


# Several agents.

TOGGLES = [
    pytest.param(spec, atoms, dueling, noisy, id=f"{spec.env_id[:-3]}-{atoms}-{dueling=}-{noisy=}")
    for spec, atoms, dueling, noisy in itertools.product(SPECS, (1, 5), (False, True), (False, True))
]


def close(mine, other):
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [[], [8], [16, 8]])
@pytest.mark.parametrize(("spec", "atoms", "dueling", "noisy"), TOGGLES)
def test_agents_in_one_batch_are_those_agents_alone(spec, atoms, dueling, noisy, hidden):
    torch.manual_seed(0)
    networks = [make(spec, atoms, dueling, True, noisy, hidden) for _ in range(3)]
    together = stack(networks)
    observation = observe(spec, 3, 6)
    for rows in (None, 1, 6):
        noise = None if rows is None else torch.randn(3, rows, together.noise_size)
        for network in (*networks, together):
            network.zero_grad()
        q = together(observation, noise)
        q.square().mean((1, 2)).sum().backward()
        for k, network in enumerate(networks):
            alone = network(observation[k], None if noise is None else noise[k])
            alone.square().mean((0, 1)).sum().backward()
            close(q[k], alone)
            for mine, other in zip(together.parameters(), network.parameters(), strict=True):
                if other.grad is not None:
                    close(mine.grad[k], other.grad)
    for k, network in enumerate(networks):
        state = unstack(together.state_dict(), k)
        assert state.keys() == network.state_dict().keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
        for mine, other in zip(together.activations(observation), network.activations(observation[k]), strict=True):
            close(mine[k], other)


@pytest.mark.parametrize("trunk", [Double, Tied, Normed])
def test_trunks_of_ones_own_in_one_batch(trunk):
    networks = [make(trunk=trunk, hidden=[8]) for _ in range(3)]
    together = stack(networks)
    assert together.trunk.training
    observation = observe(VECTOR, 3, 6)
    for _ in range(2):
        q = together(observation)
    q.square().sum().backward()
    for k, network in enumerate(networks):
        for _ in range(2):
            alone = network(observation[k])
        alone.square().sum().backward()
        close(q[k], alone)
        for mine, other in zip(together.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(mine.grad[k], other.grad, rtol=1e-4, atol=1e-5)
        for mine, other in zip(together.buffers(), network.buffers(), strict=True):
            torch.testing.assert_close(mine[k], other)


def test_a_stacked_network_copies_and_saves_like_any_other():
    networks = [make(FRAMES, dueling=True, hidden=[8]) for _ in range(2)]
    together = stack(networks)
    twin = copy.deepcopy(together)
    with torch.no_grad():
        for parameter in together.parameters():
            parameter.add_(1.0)
    observation = observe(FRAMES, 2, 3)
    close(twin(observation)[1], networks[1](observation[1]))
    file = io.BytesIO()
    torch.save(unstack(twin.state_dict(), 1), file)
    assert file.tell() < 1.2 * sum(p.numel() * 4 for p in networks[1].parameters()) + 20_000  # not all agents' memory
    file.seek(0)
    networks[0].load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(networks[0](observation[1]), networks[1](observation[1]))


def test_stacking_keeps_frozen_what_is_frozen():
    stacked = stack_modules([Linear(2, 3).requires_grad_(False) for _ in range(2)])
    assert stacked.weight.shape == (2, 3, 2)
    assert not stacked.weight.requires_grad


@pytest.mark.parametrize("stacked", [False, True])
def test_a_bfloat16_autocast_and_inference_mode_are_taken(stacked):
    network, shape = make(FRAMES, dueling=True, noisy=True, hidden=[8]), (3,)
    if stacked:
        network, shape = stack([network, make(FRAMES, dueling=True, noisy=True, hidden=[8])]), (2, 3)
    observation, noise = observe(FRAMES, *shape), torch.randn(*shape[:-1], 1, network.noise_size)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(observation, noise)
    with torch.inference_mode():
        close_enough = network(observation, noise)
    torch.testing.assert_close(low.float(), close_enough, rtol=0.1, atol=0.05)


# Beside training.


@pytest.mark.parametrize("hidden", [[], [8], [16, 8]])
@pytest.mark.parametrize("agents", [1, 3])
@pytest.mark.parametrize(("spec", "atoms", "dueling", "noisy"), [t for t in TOGGLES if t.values[0] is not FRAMES])
def test_numpy_forward_is_the_same_network_and_follows_updates(spec, atoms, dueling, noisy, agents, hidden):
    network, leading = make(spec, atoms, dueling, True, noisy, hidden), ()
    if agents > 1:
        network = stack([network, *(make(spec, atoms, dueling, True, noisy, hidden) for _ in range(agents - 1))])
        leading = (agents,)
    forward, observation = network.numpy_forward(), observe(spec, *leading, 5)
    for rows in (None, 1, 5):
        noise = None if rows is None else torch.randn(*leading, rows, network.noise_size)
        expected = network(observation, noise).detach().numpy()
        output = forward(observation.numpy(), None if noise is None else noise.numpy())
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.1).add_(0.02)
    assert copy.deepcopy(network).double().numpy_forward() is None


def test_numpy_stays_below_the_size_at_which_its_blas_starts_threads():
    assert make(hidden=[120, 84]).numpy_rows == 26  # 26 * 120 * 84 < 64^3
    assert make(hidden=[8]).numpy_rows == 32
    assert make(hidden=[1024, 1024]).numpy_rows == 0
    agents = stack([make(hidden=[120, 84]) for _ in range(2)])
    assert agents.numpy_rows == 3  # torch has caught up earlier
    assert stack([make(hidden=[1024, 1024])]).numpy_rows == 0


def test_activations_show_dead_units():
    network = make(dueling=True, noisy=True, hidden=[16, 8])
    with torch.no_grad():
        network.body[0].bias[:4] = -1e6
        network.value[0].bias[0] = -1e6
    shared, value, advantage = network.activations(observe(VECTOR, 50))
    assert (shared.shape, value.shape, advantage.shape) == ((50, 16), (50, 8), (50, 8))
    assert (shared[:, :4] == 0).all()
    assert (value[:, 0] == 0).all()
    assert (shared >= 0).all()
