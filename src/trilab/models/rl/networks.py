"""The Q-network of the DQN family: from a batch of observations to values, or return distributions, of every action."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise, repeat

import torch
from torch import Tensor, nn

from trilab.data.rl.spec import EnvSpec
from trilab.models.rl.acting import NumpyForward, numpy_forward, numpy_rows
from trilab.models.rl.layers import Linear, NoisyLinear, factorised, stack_modules
from trilab.models.rl.trunks import NatureCNN, call_stacked, check_stacked, make_trunk
from trilab.ranges import PositiveFloat, PositiveInt


class QNetwork(nn.Module):
    """A trunk, ReLU layers, and a linear head or two dueling streams.

    Vectors go straight into the layers, numbers of states as one-hot vectors, and bytes scaled to [0, 1].

    Dueling (Wang et al. 2016, https://arxiv.org/abs/1511.06581, equation 9): the last hidden layer is each stream's
    own, all before it are shared, and Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a'), for each atom where there are
    several (Hessel et al. 2018, https://arxiv.org/abs/1710.02298).

    The network of several agents (`stack`) has a leading axis of agents in every parameter and takes
    (S, batch, *shape).

    Args:
        spec: the environment.
        atoms: numbers for each action.
        dueling: two streams, of a state's value and its actions' advantages.
        dueling_rescale: multiply the gradient that the two send into what they share by 1/sqrt(2) (their section 4.2).
        noisy: all layers behind the trunk noisy (Fortunato et al. 2018; see `NoisyLinear`).
        noisy_sigma: sigma_0, how noisy at first.
        hidden: width of each hidden layer.
        trunk: makes, from `spec`, what stands before the hidden layers: a module from (batch, *shape), floats or
            numbers of states, to (batch, features). None: the Nature CNN for images of three axes, else nothing.
    """

    def __init__(
        self,
        spec: EnvSpec,
        atoms: int,
        dueling: bool,
        dueling_rescale: bool,
        noisy: bool,
        noisy_sigma: PositiveFloat,
        hidden: Sequence[PositiveInt],
        trunk: Callable[..., nn.Module] | None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.atoms = atoms
        self.trunk, inputs = make_trunk(spec, trunk)
        #: Agents in one batch; None where there is one, and no axis for it.
        self.agents: int | None = None

        def layers(widths: Sequence[int]) -> list[Linear]:
            pairs = pairwise(widths)
            return [NoisyLinear(*pair, noisy_sigma) if noisy else Linear(*pair) for pair in pairs]

        outputs = spec.num_actions * atoms
        before = [inputs, *(hidden[:-1] if dueling else hidden)]
        # Lists beside the modules that own the layers: a ModuleList takes its time to be walked.
        #: Hidden layers that all outputs share.
        self.shared = layers(before)
        self.body = nn.ModuleList(self.shared)
        #: What comes after them: a linear layer, or two streams.
        self.streams: list[list[Linear]]
        if dueling:
            self.streams = [layers([before[-1], *hidden[-1:], width]) for width in (atoms, outputs)]
            self.value, self.advantage = (nn.ModuleList(stream) for stream in self.streams)
        else:
            self.streams = [layers([before[-1], outputs])]
            self.head = self.streams[0][0]
        self.rescale = dueling and dueling_rescale and (bool(self.shared) or self.trunk is not None)
        self._noise_sizes = [layer.noise_size for layer in chain(self.shared, *self.streams)]
        #: How many standard normals make one sample of the noise; 0 without noisy layers.
        self.noise_size = sum(self._noise_sizes)
        shape = spec.observation_shape
        self._as_it_is = self.trunk is None and len(shape) <= 1 and spec.observation_dtype != "uint8"

    def forward(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Values (..., batch, actions), or (..., batch, actions, atoms) where there are several.

        Args:
            observation: (..., batch, *shape)
            noise: (..., batch or 1, noise_size) standard normals: a sample of the noise for each observation, or one
                for all. None: the layers' mean weights.
        """
        x = observation if self._as_it_is else self._features(observation)
        parts: Iterator[Tensor | None] = repeat(None)
        if noise is not None and self.noise_size:
            parts = iter(factorised(noise).split(self._noise_sizes, -1))
        # `forward` rather than a call: what a module's call does for hooks costs a tenth of these small products.
        for layer, part in zip(self.shared, parts):  # noqa: B905 - what is left of the parts is the streams'
            x = torch.relu_(layer.forward(x, part))
        if self.rescale and torch.is_grad_enabled():
            x = torch.lerp(x.detach(), x, 0.5**0.5)  # x itself, but for the gradient
        outputs = []
        for stream in self.streams:
            y = x
            for layer in stream[:-1]:
                y = torch.relu_(layer.forward(y, next(parts)))
            outputs.append(stream[-1].forward(y, next(parts)))
        if len(outputs) == 1:
            return self._by_action(outputs[0])
        value, advantage = outputs[0], self._by_action(outputs[1])
        if self.atoms > 1:
            value = value.unsqueeze(-2)  # (..., batch, 1, atoms)
        return advantage + (value - advantage.mean(self._action_axis, keepdim=True))

    def _features(self, observation: Tensor) -> Tensor:
        """Observations as the first layer takes them: (..., batch, features), or (..., batch) numbers of states."""
        x = observation
        if self.agents is None and isinstance(self.trunk, NatureCNN):
            x = self.trunk.arranged(x)
        if self.spec.observation_dtype == "uint8":
            x = x * (1 / 255)
        if self.trunk is None:
            axes = len(self.spec.observation_shape)
            return x.flatten(-axes) if axes > 1 else x
        return self.trunk(x) if self.agents is None else call_stacked(self.trunk, x)

    def _by_action(self, output: Tensor) -> Tensor:
        return output.unflatten(-1, (self.spec.num_actions, self.atoms)) if self.atoms > 1 else output

    @property
    def _action_axis(self) -> int:
        return -2 if self.atoms > 1 else -1

    def activations(self, observation: Tensor) -> list[Tensor]:
        """What each hidden layer behind the trunk puts out, by its mean weights: (..., batch, units) each."""
        x = self._features(observation)
        found = []
        for layer in self.shared:
            x = torch.relu_(layer(x))
            found.append(x)
        for stream in self.streams:
            y = x
            for layer in stream[:-1]:
                y = torch.relu_(layer(y))
                found.append(y)
        return found

    @property
    def numpy_rows(self) -> int:
        """How many observations of each agent NumPy takes faster than torch."""
        return numpy_rows(self)

    def numpy_forward(self) -> NumpyForward | None:
        """The same network in NumPy, on the same memory; None where it cannot be, see `acting.numpy_forward`."""
        return numpy_forward(self)


def stack(networks: Sequence[QNetwork]) -> QNetwork:
    """Several agents' networks as one, every parameter and buffer with a leading axis of agents.

    Raises:
        UserError: the trunk cannot run as a batch.
    """
    stacked = stack_modules(networks)
    stacked.agents = len(networks)
    if stacked.trunk is not None:
        check_stacked(stacked.trunk, stacked.spec)
    return stacked
