"""Lookahead: slow weights that follow the fast ones which the optimiser moves.

Zhang et al. 2019, Lookahead Optimizer: k steps forward, 1 step back (https://arxiv.org/abs/1907.08610), algorithm 1,
with the share kept growing over the training as in Jordan 2024, section 3.4 (https://arxiv.org/abs/2404.00498). After
every k-th of T optimiser steps, at step t,

    slow <- a slow + (1 - a) fast,    fast <- slow,    a = decay^k (t / T)^power

Everything of a network that is a float takes part: parameters, and the running statistics of batch normalisation.
"""

import torch
from torch import Tensor, nn

from trilab.ranges import Fraction, NonNegativeFloat, PositiveInt


class Lookahead:
    """Keeps the slow weights of a network, which itself holds the fast ones, except while it shows the slow ones.

    Args:
        every: optimiser steps between two updates of the slow weights.
        decay: share of the slow weights kept per optimiser step at the end of the training.
        power: how the share kept grows with the share of the training that is done; 0 for the same throughout.
    """

    def __init__(self, every: PositiveInt = 5, decay: Fraction = 0.95, power: NonNegativeFloat = 3.0) -> None:
        self.every, self.decay, self.power = every, decay, power
        self._names: list[str] = []
        self._network: list[Tensor] = []  # the network's own tensors
        self._other: list[Tensor] = []  # the slow weights; while those are shown, the fast ones
        self.showing = False

    @property
    def started(self) -> bool:
        return bool(self._names)

    def start(self, network: nn.Module, fast: dict[str, Tensor] | None = None) -> None:
        """Takes the network's weights for the slow ones, and `fast`, where a training goes on, for the fast ones."""
        state = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
        self._names, self._network = list(state), list(state.values())
        self._other, self.showing = [tensor.clone() for tensor in self._network], False
        if fast is not None:
            torch._foreach_copy_(self._network, [fast[name].to(self._network[0].device) for name in self._names])

    def due(self, step: int) -> bool:
        """Whether the slow weights are updated after the optimiser's step of that number, counted from 1."""
        return step % self.every == 0

    def update(self, progress: float) -> None:
        """Updates the slow weights and continues from them.

        Args:
            progress: share of the training's steps that are done, in [0, 1].
        """
        share = self.decay**self.every * progress**self.power
        torch._foreach_lerp_(self._other, self._network, 1.0 - share)
        torch._foreach_copy_(self._network, self._other)

    def show(self, slow: bool) -> None:
        """Makes the network hold the slow weights, or the fast ones again."""
        if slow == self.showing:
            return
        held = [tensor.clone() for tensor in self._network]
        torch._foreach_copy_(self._network, self._other)
        self._other, self.showing = held, slow

    def slow(self) -> dict[str, Tensor]:
        return dict(zip(self._names, self._network if self.showing else self._other, strict=True))

    def fast(self) -> dict[str, Tensor]:
        return dict(zip(self._names, self._other if self.showing else self._network, strict=True))

    def stop(self) -> None:
        """Leaves the slow weights in the network for good."""
        self.show(slow=True)
        self._names, self._network, self._other, self.showing = [], [], [], False
