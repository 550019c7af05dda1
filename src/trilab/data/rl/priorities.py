"""Prioritised replay, proportional variant (Schaul et al. 2016, https://arxiv.org/abs/1511.05952).

    P(i) = p_i^alpha / sum_k p_k^alpha,   p_i = |delta_i| + epsilon                     (equation 1, section 3.3)
    w_i  = (N P(i))^-beta / max_j w_j                                                   (section 3.4)

Drawing in proportion takes a sum tree. A binary one is a walk of twenty dependent steps for a million transitions and
each sample; this one is wide and two or three levels deep, each level a tensor, so that a whole batch of all agents
goes down it together. `python benchmarks/replay.py` compares the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilab.data.rl.draws import BOUND

#: Children of a node: wider costs more per level and needs fewer; 32, 64 and 128 came within a fifth of each other.
FAN_OUT = 64

#: The widest root. Every query sums it up from its beginning, which is cheaper than one more level up to about here.
ROOT = 2**14


@dataclass(frozen=True)
class Prioritized:
    """How much the temporal-difference errors matter."""

    #: 0: uniform, 1: in proportion to the error.
    alpha: float
    #: Added to the absolute error, so that a transition without one stays possible.
    epsilon: float


class SumTree:
    """Non-negative leaves, drawn in proportion to their values. A node is the sum of its `FAN_OUT` children.

    Sums are always taken afresh from the children, never adjusted by differences, so that they cannot drift.

    Args:
        lead: shape of a batch of trees: () or (agents,).
        size: leaves of each tree.
        device: float64 there, but for MPS, which has only float32.
    """

    def __init__(self, lead: tuple[int, ...], size: int, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        depth, root = 0, size
        while root > ROOT:
            depth, root = depth + 1, -(-root // FAN_OUT)
        #: From the root's children to the leaves; every level but the first FAN_OUT times as wide as the one before.
        self.levels = [
            torch.zeros(*lead, root * FAN_OUT**level, dtype=dtype, device=device) for level in range(depth + 1)
        ]
        self._below_one = 1.0 - torch.finfo(dtype).eps
        self._sums = torch.zeros(*lead, root + 1, dtype=dtype, device=device)  # starts with 0
        self._size = size
        self._padded = root * FAN_OUT**depth
        self._trees = lead[0] if lead else 1
        self._of_tree = torch.arange(self._trees, device=device).view(*lead, 1)

    def get(self, index: Tensor) -> Tensor:
        """Values of leaves; index tree * size + leaf, of any shape."""
        return self.levels[-1].view(-1)[self._leaf(index)]

    def set(self, index: Tensor, value: Tensor) -> None:
        """Changes leaves: index tree * size + leaf and value, both (count,); equal indices need equal values."""
        node = self._leaf(index)
        self.levels[-1].view(-1)[node] = value
        for below, above in pairwise(reversed(self.levels)):
            node = node.div(FAN_OUT, rounding_mode="floor")
            above.view(-1)[node] = below.view(-1, FAN_OUT).index_select(0, node).sum(1)

    def find(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """The leaf in which each share of the tree's total lies, counted from the first leaf.

        Args:
            share: (..., count) in [0, 1].

        Returns:
            index: (..., count) int64, tree * size + leaf; never a leaf of value 0 where the total is above it.
            value: (..., count) of these leaves.
        """
        root, sums = self.levels[0], self._sums
        torch.cumsum(root, -1, out=sums[..., 1:])
        total = sums[..., -1:]
        # Below the total by rounding's measure, for the last of equal sums is the one to find: leaves without a value
        # lie between equal sums, and behind the total.
        mass = torch.minimum(share * total, total * self._below_one)
        node = torch.searchsorted(sums, mass, right=True) - 1
        node.clamp_(max=root.shape[-1] - 1)  # matters only where the total is 0
        if len(self.levels) > 1:
            mass = mass - sums.gather(-1, node)
        if self._trees > 1:
            node = node + self._of_tree * root.shape[-1]
        for level in self.levels[1:]:
            children = level.view(-1, FAN_OUT).index_select(0, node.flatten())  # (trees * count, fan_out)
            within = children.cumsum(1)
            end = within[:, -1:]
            sought = torch.minimum(mass.reshape(-1, 1), end * self._below_one)
            child = torch.searchsorted(within, sought, right=True).clamp_(max=FAN_OUT - 1)
            if level is not self.levels[-1]:
                before = within.gather(1, child) - children.gather(1, child)
                mass = (sought - before).clamp_(min=0.0).view(node.shape)
            node = node * FAN_OUT + child.view(node.shape)
        value = self.levels[-1].view(-1)[node]
        if self._trees > 1:
            node = node - self._of_tree * (self._padded - self._size)
        return node, value

    def _leaf(self, index: Tensor) -> Tensor:
        if self._trees == 1 or self._padded == self._size:
            return index
        return index + index.div(self._size, rounding_mode="floor") * (self._padded - self._size)


class Priorities:
    """The priorities of a replay's slots; 0 for those that must not be drawn.

    Args:
        config: exponent and offset.
        lead: () or (agents,).
        size: slots of each agent.
        device: of the replay.
    """

    def __init__(self, config: Prioritized, lead: tuple[int, ...], size: int, device: torch.device) -> None:
        self._config = config
        self._size = size
        self._lead = lead
        self.tree = SumTree(lead, size, device)
        dtype = self.tree.levels[0].dtype
        #: p^alpha of the largest priority that each agent has seen; 1 before the first (algorithm 1, line 2).
        self._largest = torch.ones(*lead, 1, dtype=dtype, device=device)

    def enter(self, gone: np.ndarray, new: np.ndarray) -> None:
        """Takes slots out of the draw, and others in, with the agent's largest priority; no slot twice."""
        slots = torch.from_numpy(np.concatenate((gone, new))).to(self._largest.device)
        if self._lead:
            largest = self._largest.view(-1)[slots.div(self._size, rounding_mode="floor")]
        else:
            largest = self._largest.repeat(len(slots))
        largest[: len(gone)] = 0.0
        self.tree.set(slots, largest)

    def sample(self, numbers: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """One slot from each of k equal ranges of the total priority, and its importance weight.

        The weights are divided by the largest of the agent's batch, as in the paper's algorithm 1; so N and the sum of
        the priorities cancel: w_i = (min_j p_j^alpha / p_i^alpha)^beta.

        Args:
            numbers: (..., k) int64, uniform in [0, 2^62).
            beta: how much of the bias is corrected: 0 none, 1 all.

        Returns:
            slot (..., k) int64 and weight (..., k) float32.
        """
        count = numbers.shape[-1]
        share = numbers.to(self._largest.dtype).mul_(1.0 / BOUND)
        share += torch.arange(count, device=share.device)
        slot, value = self.tree.find(share.mul_(1.0 / count))
        weight = value.amin(-1, keepdim=True).div(value).pow_(beta)
        return slot, weight.float()

    def update(self, slot: Tensor, td_error: Tensor) -> None:
        """New errors of drawn transitions, both (..., k).

        A slot that has been overwritten meanwhile and may not be drawn yet stays out, and an error that is not a
        finite number changes nothing: it would spoil every sum above it, and so the draws of all agents.
        """
        value = td_error.detach().to(self._largest.dtype).abs().add_(self._config.epsilon).pow_(self._config.alpha)
        old = self.tree.get(slot)
        value = torch.where((old > 0) & (value < torch.inf), value, old)
        self.tree.set(slot.flatten(), value.flatten())
        torch.maximum(self._largest, value.amax(-1, keepdim=True), out=self._largest)

    def state_dict(self) -> dict[str, Any]:
        # The sums too: taken afresh in another order, they might differ in the last bit.
        return {
            "levels": [level.to("cpu", copy=True) for level in self.tree.levels],
            "largest": self._largest.cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        levels: Sequence[Tensor] = state["levels"]
        for level, saved in zip(self.tree.levels, levels, strict=True):
            level.copy_(saved)
        self._largest.copy_(state["largest"])
