"""Frames of stacked observations, each stored once.

An observation of Atari is the last four frames (Mnih et al. 2015, https://doi.org/10.1038/nature14236), so that pairs
(s_t, s_{t+1}) hold every frame eight times. Here an episode is a run of frames in a ring,

    f_{-K+2} ... f_{-1} f_0   f_1   f_2  ...  f_T                K = frame_stack, the first K are all of s_0
                        s_0   s_1   s_2  ...  s_T                s_t = (f_{t-K+1}, ..., f_t)

and a transition holds no more than the place of f_t. The first observation is written whole, so whatever the
environment fills it up with comes back as it was, and no stack can reach into the episode before. After truncation
f_T is kept, for its value is bootstrapped from; after termination it is not, for nothing reads it.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilab.data.rl.spec import EnvSpec

#: Steps of all environments whose frames wait on the CPU before they are moved to the device.
STAGE = 16


class Frames:
    """A ring of frames for each environment.

    Args:
        spec: uint8 observations; `frame_stack` of 1 makes the whole observation the frame.
        rings: how many.
        transitions: of each ring: as many of one uninterrupted episode fit in. Each further episode in the ring costs
            up to K frames, that is, as many transitions.
        device: where the frames lie.
    """

    def __init__(self, spec: EnvSpec, rings: int, transitions: int, device: torch.device) -> None:
        self._stack = stack = spec.frame_stack
        self._stacked = stack > 1
        self._shape = spec.observation_shape[1:] if self._stacked else spec.observation_shape
        self._length = length = transitions + stack
        size = math.prod(self._shape)
        self.table = torch.zeros(rings * length, size, dtype=torch.uint8, device=device)
        self._written = np.zeros(rings, np.int64)  # frames ever
        self._fresh = np.ones(rings, bool)  # the next transition is its episode's first
        self._transitions = np.zeros(rings, np.int64)  # ever
        # By frame: how many transitions lie before it.
        self._before = np.zeros((rings, length), np.int64)
        self._rings = np.arange(rings)
        self._leading = np.arange(stack)
        # (stack + 1,): from s_t's newest frame to all those of s_t and the newest of s_{t+1}; no number below 0.
        self._around = torch.arange(length - stack + 1, length + 2, device=device)
        capacity = rings * (stack + STAGE)
        self._stage = torch.zeros(capacity, size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._stage_array = self._stage.numpy()
        self._targets = np.zeros(capacity, np.int64)
        self._staged = 0
        # No frame may be the target of two frames in one move.
        self._moves_after = max(1, length // (stack + 1))
        self._steps = 0

    def add(
        self,
        observation: np.ndarray,
        next_observation: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        valid: np.ndarray | None,
    ) -> np.ndarray:
        """Takes one step of every environment; gives the place of s_t's newest frame in each ring (rings,)."""
        if self._steps >= self._moves_after:
            self.move()
        self._steps += 1
        observation = observation.reshape(len(self._rings), self._stack, -1)
        next_observation = next_observation.reshape(len(self._rings), self._stack, -1)
        rings = self._rings if valid is None else np.flatnonzero(valid)
        first = rings[self._fresh[rings]]
        if first.size:
            at = self._written[first][:, None] + self._leading  # (first, stack)
            self._write(np.repeat(first, self._stack), at.ravel(), observation[first].reshape(at.size, -1))
            self._written[first] += self._stack
        place = (self._written - 1) % self._length
        self._transitions[rings] += 1
        done = terminated | truncated
        onward = rings
        if done.any():
            onward = rings[~terminated[rings]]
        self._fresh[rings] = done[rings]
        if onward.size:
            self._write(onward, self._written[onward], next_observation[onward, -1])
            self._written[onward] += 1
        return place

    def _write(self, rings: np.ndarray, at: np.ndarray, frames: np.ndarray) -> None:
        start, end = self._staged, self._staged + len(frames)
        if end > len(self._targets):
            self.move()
            start, end = 0, len(frames)
        place = at % self._length
        self._before[rings, place] = self._transitions[rings]
        self._stage_array[start:end] = frames
        self._targets[start:end] = rings * self._length + place
        self._staged = end

    def move(self) -> None:
        """Moves what is staged to the device."""
        count, self._staged, self._steps = self._staged, 0, 0
        if count:
            targets = torch.from_numpy(self._targets[:count]).to(self.table.device)
            self.table.index_copy_(0, targets, self._stage[:count].to(self.table.device))

    def oldest(self) -> np.ndarray:
        """Number of each ring's oldest transition of which no frame has been overwritten: (rings,)."""
        limit = self._written - self._length + self._stack - 1  # the oldest frame that a stack may end with
        return np.where(limit > 0, self._before[self._rings, limit % self._length], 0)

    def break_episodes(self) -> None:
        """Lets the next transition of every ring begin an episode; the newest frame stays its predecessor's."""
        self._fresh[:] = True

    def pairs(self, ring: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Observation and next: views of one and the same gathered frames.

        Args:
            ring: (batch,) int64.
            place: (batch,) int64, of the observation's newest frame in the ring.

        Returns:
            (batch, *observation_shape) twice.
        """
        frames = self._gather(ring, place, self._around)
        if not self._stacked:
            return frames[:, 0], frames[:, 1]
        return frames[:, :-1], frames[:, 1:]

    def stacks(self, ring: Tensor, place: Tensor, following: bool = False) -> Tensor:
        """The observation at a place, or the one that follows it: (batch, *observation_shape)."""
        frames = self._gather(ring, place, self._around[1:] if following else self._around[:-1])
        return frames if self._stacked else frames[:, 0]

    def _gather(self, ring: Tensor, place: Tensor, around: Tensor) -> Tensor:
        index = (place.unsqueeze(1) + around).remainder_(self._length) + (ring * self._length).unsqueeze(1)
        return self.table.index_select(0, index.flatten()).view(*index.shape, *self._shape)

    def state_dict(self) -> dict[str, Any]:
        self.move()
        held = min(self._length, int(self._written.max()))
        by_ring = self.table.view(len(self._rings), self._length, -1)
        return {
            "table": by_ring[:, :held].to("cpu", copy=True),
            "before": torch.from_numpy(self._before[:, :held].copy()),
            "written": self._written.tolist(),
            "transitions": self._transitions.tolist(),
            "fresh": self._fresh.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        held = state["table"].shape[1]
        self.table.view(len(self._rings), self._length, -1)[:, :held] = state["table"].to(self.table.device)
        self._before[:, :held] = state["before"].numpy()
        self._written[:] = state["written"]
        self._transitions[:] = state["transitions"]
        self._fresh[:] = state["fresh"]
        self._staged = self._steps = 0
