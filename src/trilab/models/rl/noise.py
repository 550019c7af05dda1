"""Standard normals for noisy networks, drawn in blocks from a generator of each agent's own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Draws made by one call of a generator.
BLOCK = 32


class NoiseStream:
    """Noise by the draw: (rows, size) for one agent, (agents, rows, size) for several.

    Agent k's stream is the same alone and beside others. Drawn on the CPU, so that it is the same on every device.

    Args:
        seeds: of each agent.
        stream: tells apart the streams of one agent.
        rows: independent vectors to a draw.
        size: numbers in a vector.
        device: where the noise is used.
    """

    def __init__(
        self, seeds: Sequence[int], stream: int, rows: int, size: int, device: torch.device | str = "cpu"
    ) -> None:
        self._generators = [
            torch.Generator().manual_seed(int(np.random.SeedSequence((seed, stream)).generate_state(1)[0]))
            for seed in seeds
        ]
        self._agents = len(seeds)
        self._before = torch.stack([generator.get_state() for generator in self._generators])
        self._blocks = torch.zeros(BLOCK, self._agents, rows, size, device=device)
        self._next = np.zeros(self._agents, np.int64)
        self._even = True  # all agents have drawn equally often
        self._fill(range(self._agents))

    def draw(self, behind: np.ndarray | None = None) -> Tensor:
        """The next draw; good until the next.

        Args:
            behind: (agents,) bool, whose draw it is; the others keep their place. None: everybody's.
        """
        drawing = list(range(self._agents)) if behind is None else np.flatnonzero(behind).tolist()
        if (self._next[drawing] == BLOCK).any():
            self._fill([agent for agent in drawing if self._next[agent] == BLOCK])
        self._even = self._even and behind is None
        if self._even:
            draw = self._blocks[self._next[0]]  # (agents, rows, size)
        else:
            draw = self._blocks[np.minimum(self._next, BLOCK - 1), np.arange(self._agents)]
        self._next[drawing] += 1
        return draw if self._agents > 1 else draw[0]

    def _fill(self, agents: Sequence[int]) -> None:
        for agent in agents:
            generator = self._generators[agent]
            self._before[agent] = generator.get_state()
            self._blocks[:, agent] = torch.randn(self._blocks[:, agent].shape, generator=generator)
            self._next[agent] = 0

    def state_dict(self) -> dict[str, Any]:
        return {"generators": self._before.clone(), "next": self._next.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another stream of the same agents left off."""
        for generator, before in zip(self._generators, state["generators"], strict=True):
            generator.set_state(before.cpu().clone())  # a view into a larger tensor would crash
        self._fill(range(self._agents))
        self._next[:] = state["next"]
        self._even = len(set(state["next"])) == 1
