"""Experience replay (Lin 1992; Mnih et al. 2015, https://doi.org/10.1038/nature14236) as packed tensors.

Float observations share one float32 row with the rest of their transition, so that a batch is one `index_select`
(3 us for 128 transitions of CartPole, where five separate tensors cost 33 us); byte observations have a table of
their own beside it. Transitions are staged in NumPy and moved to the training device in one piece, before sampling.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trilab.data.rl.spec import EnvSpec

# Rows staged on the host before they are moved; sampling moves what there is.
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
        stage, frame = min(STAGE, capacity), np.float32 if self._packed else np.uint8
        self._stage_size = stage
        self._staged_scalars = np.zeros((stage, 3), np.float32)
        self._staged_observations = np.zeros((stage, *self._shape), frame)
        self._staged_successors = np.zeros((stage, *self._shape), frame)
        self._staged = 0
        self._written = 0
        self._generator = torch.Generator(self.device).manual_seed(
            int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])
        )

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return min(self._written + self._staged, self.capacity)

    def add(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        next_observation: np.ndarray,
        terminated: np.ndarray,
    ) -> None:
        """Appends a batch of transitions: arrays whose first axis runs over them, all of one length."""
        count, stage = len(action), self._stage_size
        if self._staged + count > stage:
            self._flush()
            if count > stage:
                first = (observation[:stage], action[:stage], reward[:stage], next_observation[:stage])
                self.add(*first, terminated[:stage])
                rest = (observation[stage:], action[stage:], reward[stage:], next_observation[stage:])
                return self.add(*rest, terminated[stage:])
        rows = slice(self._staged, self._staged + count)
        self._staged_observations[rows] = observation
        self._staged_successors[rows] = next_observation
        scalars = self._staged_scalars[rows]
        scalars[:, 0] = action
        scalars[:, 1] = reward
        scalars[:, 2] = terminated
        self._staged += count
        return None

    def sample(self, batch_size: int) -> Batch:
        """`batch_size` transitions, each drawn uniformly from those held."""
        if self._staged:
            self._flush()
        held = min(self._written, self.capacity)
        if not held:
            raise RuntimeError("the replay buffer is empty")
        return self.gather(torch.randint(held, (batch_size,), generator=self._generator, device=self.device))

    def gather(self, slots: Tensor) -> Batch:
        """The transitions in the given slots: (batch,) int64."""
        rows = self._rows.index_select(0, slots)  # (batch, 3 or 3 + 2 * width)
        width = self._width
        if self._packed:
            scalars, observation, following = rows.split((3, width, width), 1)
        else:
            scalars = rows
            observation, following = self._frames.index_select(0, slots).split(width, 1)  # (batch, width)
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
            "written": self._written,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        held = len(state["rows"])
        wraps = state["written"] > held  # its slots only mean the same in a buffer of the same capacity
        if held > self.capacity or (wraps and held != self.capacity) or state["rows"].shape[1] != self._rows.shape[1]:
            raise ValueError(f"a replay of {tuple(state['rows'].shape)} does not fit one of {tuple(self._rows.shape)}")
        self._rows[:held] = state["rows"].to(self.device)
        if not self._packed:
            self._frames[:held] = state["frames"].to(self.device)
        self._written, self._staged = state["written"], 0
        self._generator.set_state(state["generator"].cpu())

    def _flush(self) -> None:
        """Moves the staged transitions to the device, around the end of the tables where need be."""
        count, start = self._staged, self._written % self.capacity
        head = min(count, self.capacity - start)
        observations = torch.from_numpy(self._staged_observations[:count]).flatten(1)
        successors = torch.from_numpy(self._staged_successors[:count]).flatten(1)
        scalars = torch.from_numpy(self._staged_scalars[:count])
        if self._packed:
            tables = [(self._rows, torch.cat((scalars, observations, successors), 1))]
        else:
            tables = [(self._rows, scalars), (self._frames, torch.cat((observations, successors), 1))]
        for table, rows in tables:
            table[start : start + head] = rows[:head]
            if head < count:
                table[: count - head] = rows[head:]
        self._written += count
        self._staged = 0
