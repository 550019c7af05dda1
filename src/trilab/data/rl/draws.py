"""The random numbers that batches are drawn with: every agent's from a generator of its own, in blocks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Batches whose numbers are drawn at once: a call of the generator costs more than the numbers of a batch.
BLOCK = 64

#: Exclusive bound of the numbers. Whole numbers, not fractions: a remainder is one operation on every device, and
#: its bias of n / 2^62 towards small remainders is beyond notice.
BOUND = 2**62


class Draws:
    """Uniform int64 in [0, 2^62). An agent's numbers do not depend on which others draw beside it, nor on the device.

    Args:
        seeds: one for each agent.
        device: where the numbers are wanted.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._device = device
        self._generators = [  # on the CPU wherever the replay lies, for the same draws everywhere
            torch.Generator().manual_seed(int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])) for seed in seeds
        ]
        self._block: list[Tensor] = []
        self._used = 0
        self._size = 0  # numbers of an agent in each of the block's batches
        self._before = [generator.get_state() for generator in self._generators]  # as it was before the block

    def __call__(self, size: int) -> Tensor:
        """(..., size)"""
        if size != self._size or self._used == BLOCK:
            self._before = [generator.get_state() for generator in self._generators]
            self._size = size
            self._draw()
        self._used += 1
        return self._block[self._used - 1]

    def _draw(self) -> None:
        own = [torch.randint(BOUND, (BLOCK, self._size), generator=generator) for generator in self._generators]
        block = own[0] if len(own) == 1 else torch.stack(own, 1)  # (block, ..., size)
        self._block = list(block.to(self._device).unbind())
        self._used = 0

    def state_dict(self) -> dict[str, Any]:
        return {"generators": [state.clone() for state in self._before], "size": self._size, "used": self._used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before = [saved.cpu() for saved in state["generators"]]
        for generator, saved in zip(self._generators, self._before, strict=True):
            generator.set_state(saved)
        self._size = int(state["size"])
        if self._size:
            self._draw()
        self._used = int(state["used"])
