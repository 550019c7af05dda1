"""Experience replay (Lin 1992; Mnih et al. 2015, https://doi.org/10.1038/nature14236) as packed tensors.

Float observations share one float32 row with the rest of their transition, so that a batch is one `index_select`
(3 us for 128 transitions of CartPole, where five separate tensors cost 33 us); byte observations have a table of
their own beside it. Environments speak NumPy: on the CPU its arrays are views of the tables, elsewhere of a small
staging area whose rows are moved to the training device in one piece, before sampling.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trilab.data.rl.spec import EnvSpec

# Rows of the staging area; sampling moves what there is.
STAGE = 256


class Batch(NamedTuple):
    """Transitions, drawn independently of one another."""

    observation: Tensor  # (batch, *observation_shape)
    action: Tensor  # (batch,) int64
    reward: Tensor  # (batch,) float32
    next_observation: Tensor  # (batch, *observation_shape)
    terminated: Tensor  # (batch,) float32, 1 where the episode ended in next_observation (truncation is not an end)


class ReplayBuffer:
    """The last `capacity` transitions, sampled uniformly with replacement.

    Args:
        capacity: transitions held; the oldest are overwritten.
        spec: shape and type of the observations.
        device: where the transitions lie and batches are made.
        seed: of the generator that draws the batches.
    """

    def __init__(self, capacity: int, spec: EnvSpec, device: torch.device | str = "cpu", seed: int = 0) -> None:
        self.capacity = capacity
        self.device = torch.device(device)
        self._shape = spec.observation_shape
        self._width = width = math.prod(spec.observation_shape)
        self._packed = spec.observation_dtype != "uint8"
        columns = 3 + (2 * width if self._packed else 0)  # [action | reward | terminated | observation | next]
        self._rows = torch.zeros(capacity, columns, device=self.device)
        self._frames = torch.zeros(0 if self._packed else capacity, 2 * width, dtype=torch.uint8, device=self.device)
        # Where `add` writes: the tables themselves, or staging tables of the same columns.
        self._direct = self.device.type == "cpu"
        self._area = area = capacity if self._direct else min(STAGE, capacity)
        self._new_rows = self._rows if self._direct else torch.zeros(area, columns)
        self._new_frames = self._frames if self._direct else torch.zeros(self._frames[:area].shape, dtype=torch.uint8)
        rows = self._new_rows.numpy()
        pairs = rows[:, 3:] if self._packed else self._new_frames.numpy()
        self._action, self._reward, self._terminated = rows[:, 0], rows[:, 1], rows[:, 2]
        self._observation = pairs[:, :width].reshape(area, *self._shape)
        self._successor = pairs[:, width:].reshape(area, *self._shape)
        assert np.shares_memory(self._successor, pairs)
        self._cursor = 0  # next row of the area
        self._added = 0  # transitions ever
        self._generator = torch.Generator(self.device).manual_seed(
            int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])
        )

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return min(self._added, self.capacity)

    def add(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        next_observation: np.ndarray,
        terminated: np.ndarray,
    ) -> None:
        """Appends a batch of transitions: arrays whose first axis runs over them, all of one length."""
        count, start = len(action), self._cursor
        room = self._area - start
        if count > room:
            columns = (observation, action, reward, next_observation, terminated)
            if room:
                self.add(*(column[:room] for column in columns))
            self._flush()
            self._cursor = 0
            return self.add(*(column[room:] for column in columns))
        self._cursor = end = start + count
        self._added += count
        self._observation[start:end] = observation
        self._action[start:end] = action
        self._reward[start:end] = reward
        self._successor[start:end] = next_observation
        self._terminated[start:end] = terminated
        return None

    def sample(self, batch_size: int) -> Batch:
        """`batch_size` transitions, each drawn uniformly from those held."""
        self._flush()
        held = min(self._added, self.capacity)
        if not held:
            raise RuntimeError("the replay buffer is empty")
        return self.gather(torch.randint(held, (batch_size,), generator=self._generator, device=self.device))

    def gather(self, slots: Tensor) -> Batch:
        """The transitions in the given slots: (batch,) int64."""
        rows = self._rows.index_select(0, slots)  # (batch, 3 or 3 + 2 * width)
        width = self._width
        if self._packed:
            scalars, observation, following = rows.split_with_sizes((3, width, width), 1)
        else:
            scalars = rows
            observation, following = self._frames.index_select(0, slots).split_with_sizes(
                (width, width), 1
            )  # (batch, width)
        if len(self._shape) != 1:
            observation, following = observation.unflatten(1, self._shape), following.unflatten(1, self._shape)
        action, reward, terminated = scalars.unbind(1)
        return Batch(observation, action.long(), reward, following, terminated)

    def state_dict(self) -> dict[str, Any]:
        self._flush()
        held = len(self)
        return {
            "rows": self._rows[:held].clone(),
            "frames": self._frames[:held].clone(),
            "added": self._added,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        held, added = len(state["rows"]), state["added"]
        wrapped = added > held  # its rows only mean the same in a buffer of the same capacity
        if held > self.capacity or (wrapped and held != self.capacity) or state["rows"].shape[1] != self._rows.shape[1]:
            raise ValueError(f"a replay of {tuple(state['rows'].shape)} does not fit one of {tuple(self._rows.shape)}")
        self._rows[:held] = state["rows"].to(self.device)
        if not self._packed:
            self._frames[:held] = state["frames"].to(self.device)
        self._added = added
        self._cursor = added % self.capacity if self._direct else 0
        self._generator.set_state(state["generator"].cpu())

    def _flush(self) -> None:
        """Moves what is staged to the device, around the end of the tables where need be."""
        count = self._cursor
        if self._direct or not count:
            return
        start = (self._added - count) % self.capacity
        head = min(count, self.capacity - start)
        tables = [(self._rows, self._new_rows)]
        if not self._packed:
            tables.append((self._frames, self._new_frames))
        for table, staged in tables:
            table.narrow(0, start, head).copy_(staged.narrow(0, 0, head))
            table.narrow(0, 0, count - head).copy_(staged.narrow(0, head, count - head))
        self._cursor = 0
