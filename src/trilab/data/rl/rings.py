"""Transitions as rows of one table, in a ring of slots for each environment.

A row is [action | reward | terminated | ended | observation | next observation] in float32, or, where observations are
bytes, [action | reward | terminated | ended | place of a frame] beside `Frames`. Slot of a row: ring * length +
position. New rows wait in a staging area of the same columns, which environments can fill as NumPy, and are moved to
the table, wherever it lies, in one piece.
"""

import math
from typing import Any

import numpy as np
import torch

from trilab.data.rl.frames import Frames
from trilab.data.rl.spec import EnvSpec
from trilab.errors import UserError

#: Steps of all environments that the staging area holds at most, and their bytes.
STAGE = 256
STAGE_BYTES = 2**22

#: Columns that every row has.
ACTION, REWARD, TERMINATED, ENDED, PAYLOAD = range(5)


class Rings:
    """The last `length` transitions of each environment, numbered from its first ever.

    Args:
        spec: shape and type of the observations.
        rings: one for each environment.
        length: slots of each.
        n_step: length of windows: the newest transitions whose windows are not complete yet cannot be drawn.
        device: where the table lies.
    """

    def __init__(self, spec: EnvSpec, *, rings: int, length: int, n_step: int, device: torch.device) -> None:
        self.rings = rings
        self.length = length
        self.frames = Frames(spec, rings, length, device) if spec.observation_dtype == "uint8" else None
        self.width = math.prod(spec.observation_shape)
        self.columns = columns = PAYLOAD + (1 if self.frames else 2 * self.width)
        self.rows = torch.zeros(rings * length, columns, device=device)
        self.added = np.zeros(rings, np.int64)  # transitions ever
        self.in_step = True  # every ring has had as many
        self.even = True  # every ring holds as many: they are in step, or all of them full
        self._since = np.zeros(rings, np.int64)  # transitions since an episode's last end
        self._n_step = n_step
        self._device = device
        by_ring = self.rows.view(rings, length, columns)
        # On the CPU, rows are moved by NumPy: its assignments cost a third of torch's.
        self._in_numpy = device.type == "cpu"
        self._table: Any = self.rows.numpy() if self._in_numpy else None
        self._first = np.arange(rings) * length  # slot of each ring
        self._by_ring: Any = by_ring.numpy() if self._in_numpy else by_ring
        # No slot may be the target of two staged rows.
        steps = max(1, min(STAGE, length, STAGE_BYTES // (4 * rings * columns)))
        self._stage = torch.zeros(steps, rings, columns, pin_memory=device.type == "cuda")
        self._new = new = self._stage.numpy()
        self._action, self._reward, self._terminated, self._ended, self._place = (new[..., i] for i in range(5))
        if not self.frames:
            shape = (steps, rings, *spec.observation_shape)
            self._observation = new[..., PAYLOAD : PAYLOAD + self.width].reshape(shape)
            self._successor = new[..., PAYLOAD + self.width :].reshape(shape)
            assert np.shares_memory(self._successor, new)
        self._steps = steps
        self._staged = 0
        self._masks: list[tuple[int, np.ndarray]] = []

    def add(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        next_observation: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        valid: np.ndarray | None,
    ) -> bool:
        """Takes one step of every environment; gives whether the staging area is full, and `move` is due."""
        at = self._staged
        self._action[at] = action
        self._reward[at] = reward
        self._terminated[at] = terminated
        self._ended[at] = truncated  # made whole in `move`
        if self.frames:
            self._place[at] = self.frames.add(observation, next_observation, terminated, truncated, valid)
        else:
            self._observation[at] = observation
            self._successor[at] = next_observation
        if valid is not None:
            self._masks.append((at, valid.copy()))
        self._staged = at + 1
        return self._staged == self._steps

    def move(self) -> bool:
        """Moves what is staged into the rings; gives whether there was anything."""
        count = self._staged
        if not count:
            return False
        self._staged = 0
        if self.frames:
            self.frames.move()
        new = self._new[:count]  # (steps, rings, columns)
        ended = np.maximum(new[..., ENDED], new[..., TERMINATED], out=new[..., ENDED])
        valid = self._take_masks(count)
        if self._n_step > 1:
            self._count_since(ended > 0, valid)
        if valid is None and self.in_step:
            rows: Any = new if self._in_numpy else self._stage[:count].to(self._device)
            start = int(self.added[0]) % self.length
            head = min(count, self.length - start)
            self._by_ring[:, start : start + head] = rows[:head].swapaxes(0, 1)
            if head < count:
                self._by_ring[:, : count - head] = rows[head:].swapaxes(0, 1)
            self.added += count
            return True
        if valid is None:
            number = self.added + np.arange(count)[:, None]  # (steps, rings)
            slots, rows = (self._first + number % self.length).ravel(), new.reshape(-1, self.columns)
            self.added += count
        else:
            number = self.added + valid.cumsum(0) - 1
            slots, rows = (self._first + number % self.length)[valid], new[valid]
            self.added += valid.sum(0)
        if self._in_numpy:
            self._table[slots] = rows
        else:
            self.rows.index_copy_(0, torch.from_numpy(slots).to(self._device), torch.from_numpy(rows).to(self._device))
        self._compare()
        return True

    def _compare(self) -> None:
        self.in_step = bool((self.added == self.added[0]).all())
        self.even = self.in_step or bool(self.added.min() >= self.length)

    def _take_masks(self, count: int) -> np.ndarray | None:
        """(steps, rings) bool; None: all are transitions."""
        if not self._masks:
            return None
        valid = np.ones((count, self.rings), bool)
        for at, mask in self._masks:
            valid[at] = mask
        self._masks.clear()
        return None if valid.all() else valid

    def _count_since(self, ended: np.ndarray, valid: np.ndarray | None) -> None:
        """Brings up to date how long ago episodes ended, from what is new: (steps, rings)."""
        if valid is None:
            number = np.arange(1, len(ended) + 1)[:, None]
        else:
            number, ended = valid.cumsum(0), ended & valid
        last_end = np.where(ended, number, 0).max(0)
        self._since = np.where(last_end > 0, 0, self._since) + number[-1] - last_end

    def oldest(self) -> np.ndarray:
        """Number of each ring's oldest transition that is still whole: (rings,)."""
        oldest = np.maximum(self.added - self.length, 0)
        return np.maximum(oldest, self.frames.oldest()) if self.frames else oldest

    def drawable(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the transitions that may be drawn, from and to, of each ring: (rings,) twice."""
        start, stop = self.oldest(), self.added
        if self._n_step > 1:
            stop = stop - np.minimum(self._n_step - 1, self._since)
        return start, np.maximum(start, stop)

    def slots(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Slots of the transitions numbered start to stop, of all rings: (count,)."""
        if self.rings == 1:
            return np.arange(start[0], stop[0]) % self.length
        count = np.maximum(stop - start, 0)
        number = np.arange(count.sum()) + np.repeat(start - (count.cumsum() - count), count)
        return np.repeat(np.arange(self.rings) * self.length, count) + number % self.length

    def break_episodes(self) -> None:
        """Ends every episode that is running, by truncation after its newest transition."""
        self.move()
        rings = np.flatnonzero(self.added)
        newest = torch.from_numpy(rings * self.length + (self.added[rings] - 1) % self.length)
        self.rows[:, ENDED].index_fill_(0, newest.to(self._device), 1.0)
        self._since[:] = 0
        if self.frames:
            self.frames.break_episodes()

    def state_dict(self) -> dict[str, Any]:
        self.move()
        held = min(int(self.added.max()), self.length)
        return {
            "shape": [self.rings, self.length, self.columns],
            "rows": self.rows.view(self.rings, self.length, -1)[:, :held].to("cpu", copy=True),
            "added": self.added.tolist(),
            "since": self._since.tolist(),
            "frames": self.frames.state_dict() if self.frames else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        shape = [self.rings, self.length, self.columns]
        if shape != state["shape"]:
            raise UserError(
                f"the checkpoint's replay of {state['shape']} (environments, transitions, columns) does not fit this "
                f"one of {shape}: leave data.replay_capacity and data.num_envs as they were."
            )
        held = state["rows"].shape[1]
        self.rows.view(shape)[:, :held] = state["rows"].to(self._device)
        self.added[:] = state["added"]
        self._since[:] = state["since"]
        self._compare()
        if self.frames:
            self.frames.load_state_dict(state["frames"])
        self._staged = 0
        self._masks.clear()
