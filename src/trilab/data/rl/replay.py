"""Experience replay (Lin 1992; Mnih et al. 2015, https://doi.org/10.1038/nature14236) as packed tensors.

The transitions of all agents are rows of one table (`Rings`), so that a batch of all agents is one `index_select`.
Windows of n steps (Sutton 1988; Hessel et al. 2018, https://arxiv.org/abs/1710.02298, section "Multi-step learning")
are put together when drawn, from the order of the ring:

    R = sum_{j<m} gamma^j r_{t+j},   bootstrapped from s_{t+m} with gamma^m,   m <= n

where m is n, or ends with the episode; a window that neither has n steps yet nor an end cannot be drawn.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trilab.data.rl.draws import Draws
from trilab.data.rl.frames import Frames
from trilab.data.rl.priorities import Priorities, Prioritized
from trilab.data.rl.rings import ACTION, PAYLOAD, Rings
from trilab.data.rl.spec import EnvSpec
from trilab.errors import ConfigError, UserError

__all__ = ["Batch", "Prioritized", "Replay"]

#: Whole numbers from here up are not exact in float32.
EXACT = 2**24


class Batch(NamedTuple):
    """Transitions, drawn independently of one another. "..." is (agents,), or nothing for a lone agent."""

    observation: Tensor  # (..., batch, *observation_shape) float32, uint8, or int64: numbers of states
    action: Tensor  # (..., batch) int64
    reward: Tensor  # (..., batch) float32, discounted sum over the window's m steps
    next_observation: Tensor  # (..., batch, *observation_shape), s_{t+m}
    discount: Tensor  # (..., batch) float32: gamma^m, and 0 where the episode terminated in s_{t+m}
    weight: Tensor | None  # (..., batch) float32 importance weights; None: uniform
    slot: Tensor | None  # (..., batch) int64, for `update_priorities`; None: uniform


class Replay:
    """The last transitions of one agent, or of several that learn side by side.

    Args:
        capacity: transitions held of each agent, an equal share of each of its environments; the oldest are
            overwritten. Byte observations: frames held, see `Frames`.
        spec: shape and type of the observations.
        num_envs: training environments of each agent.
        seeds: one for each agent, of its draws.
        device: where the transitions lie and batches are made.
        n_step: steps of a window at most.
        gamma: discount of a step.
        prioritized: None draws uniformly, with replacement.
    """

    def __init__(
        self,
        capacity: int,
        spec: EnvSpec,
        *,
        num_envs: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        n_step: int = 1,
        gamma: float = 1.0,
        prioritized: Prioritized | None = None,
    ) -> None:
        _check(capacity, spec, num_envs, n_step)
        self.capacity = capacity
        self.agents = agents = len(seeds)
        self.num_envs = num_envs
        self.n_step = n_step
        self.device = device = torch.device(device)
        self._shape = spec.observation_shape
        self._states = spec.observation_dtype == "int64"
        self._lead = (agents,) if agents > 1 else ()
        self._length = length = capacity // num_envs
        self._rings = Rings(spec, rings=agents * num_envs, length=length, n_step=n_step, device=device)
        self._rows = self._rings.rows
        self._draws = Draws(seeds, device)
        self._gamma = gamma
        self._gammas = torch.tensor([gamma**power for power in range(1, n_step + 1)], device=device)
        self._ahead = torch.arange(n_step, device=device).unsqueeze(1)
        self._sizes = PAYLOAD, self._rings.width, self._rings.width
        # (..., 1): of each agent.
        self._first_slot = torch.arange(agents, device=device).view(*self._lead, 1) * (num_envs * length)
        # Single transitions of which every slot that is written may be drawn.
        self._plain = n_step == 1 and self._rings.frames is None
        self._priorities: Priorities | None = None
        if prioritized is not None:
            self._priorities = Priorities(prioritized, self._lead, num_envs * length, device)
        # The range of each ring's transitions that have priorities.
        self._known = self._rings.drawable()

    def __len__(self) -> int:
        """Transitions held, of the agent that holds the fewest."""
        self._move()
        return self._fewest(self._rings.added - self._rings.oldest())

    @property
    def drawable(self) -> int:
        """Transitions that `sample` may draw now, of the agent that has the fewest."""
        self._move()
        if self._plain and self._rings.even:
            return self.num_envs * min(int(self._rings.added[0]), self._length)
        start, stop = self._rings.drawable()
        return self._fewest(stop - start)

    def _fewest(self, of_ring: np.ndarray) -> int:
        return int(of_ring.reshape(self.agents, -1).sum(1).min())

    def add(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        next_observation: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        valid: np.ndarray | None = None,
    ) -> None:
        """Appends one transition of every environment: arrays of agents * num_envs rows, agent after agent.

        Args:
            observation: s_t, which is the environment's last next_observation where its episode goes on.
            action: a_t.
            reward: r_t.
            next_observation: the true s_{t+1}, at an episode's end too.
            terminated: whether the episode ended in s_{t+1} for good.
            truncated: whether it was cut off there.
            valid: which rows are transitions at all; None: all.
        """
        if self._rings.add(observation, action, reward, next_observation, terminated, truncated, valid):
            self._move()

    def _move(self) -> None:
        if self._rings.move() and self._priorities:
            self._update_known(self._priorities)

    def _update_known(self, priorities: Priorities) -> None:
        """Gives priorities to transitions whose windows are complete, and takes them from those overwritten."""
        (known_start, known_stop), (start, stop) = self._known, self._rings.drawable()
        self._known = start, stop
        # A slot that has been filled again is only new.
        gone = self._rings.slots(np.maximum(known_start, stop - self._length), np.minimum(known_stop, start))
        priorities.enter(gone, self._rings.slots(np.maximum(known_stop, start), stop))

    def sample(self, batch_size: int, beta: float = 1.0) -> Batch:
        """A batch for each agent.

        Args:
            batch_size: transitions of each agent.
            beta: exponent of the importance weights, where there are priorities.
        """
        self._move()
        if self._priorities is None:
            return self._gather(self._uniform(batch_size), None)
        start, stop = self._known
        if not self._fewest(stop - start):
            raise _nothing()
        return self._gather(*self._priorities.sample(self._draws(batch_size), beta))

    def _uniform(self, batch_size: int) -> Tensor:
        """Slots, each drawn uniformly from those of the agent that may be: (..., batch) int64."""
        rings, length = self._rings, self._length
        numbers = self._draws(batch_size)
        if self._plain and rings.even:
            held = min(int(rings.added[0]), length)
            if not held:
                raise _nothing()
            slots = numbers.remainder(self.num_envs * held)
            if held < length and self.num_envs > 1:
                slots += slots.div(held, rounding_mode="floor") * (length - held)
            return slots + self._first_slot if self._lead else slots
        start, stop = rings.drawable()
        if self._plain:
            start, stop = start - start, stop - start  # by position, as above: the order does not matter
        count = (stop - start).reshape(self.agents, -1)  # (agents, num_envs)
        ends = count.cumsum(1)
        if not ends[:, -1].all():
            raise _nothing()
        if rings.rings == 1:
            return numbers.remainder(int(ends[0, 0])).add_(int(start[0])).remainder_(length)
        shift = start.reshape(self.agents, -1) - (ends - count)  # from numbers of the agent to those of the ring
        on_device = torch.from_numpy(np.stack((ends, shift))).to(self.device)
        of_rings, shifts = on_device.view(2, *self._lead, self.num_envs).unbind()
        drawn = numbers.remainder(of_rings[..., -1:])
        ring = torch.searchsorted(of_rings, drawn, right=True)
        return (drawn + shifts.gather(-1, ring)).remainder_(length) + ring * length + self._first_slot

    def _gather(self, slots: Tensor, weight: Tensor | None) -> Batch:
        flat = slots.flatten() if self._lead else slots
        first = last = self._rows.index_select(0, flat)  # (agents * batch, columns)
        if self.n_step == 1:
            columns, observation, following = self._split(first)
            action, reward, terminated, _ = columns.unbind(1)
            discount = torch.sub(self._gammas[0], terminated, alpha=self._gamma)
        else:
            reward, discount, end = self._windows(flat)
            last = self._rows.index_select(0, end)
            action, observation, following = first[:, ACTION], self._split(first)[1], self._split(last)[2]
        if self._rings.frames:
            observation, following = self._stacks(self._rings.frames, flat, first, last)
        elif len(self._shape) != 1:
            shape = len(flat), *self._shape
            observation, following = observation.view(shape), following.view(shape)
        if self._states:
            observation, following = observation.long(), following.long()
        action, slot = action.long(), None if weight is None else slots
        if not self._lead:
            return Batch(observation, action, reward, following, discount, weight, slot)
        fields = [field.unflatten(0, slots.shape) for field in (observation, action, reward, following, discount)]
        return Batch._make([*fields, weight, slot])  # (agents, batch, ...)

    def _split(self, rows: Tensor) -> Sequence[Tensor]:
        """Columns of every kind of row, observation and next observation: (count, ...), empty where they are frames."""
        if self._rings.frames:
            return rows[:, :PAYLOAD], rows[:, :0], rows[:, :0]
        return rows.split_with_sizes(self._sizes, 1)

    def _windows(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reward, discount and last slot of the windows that begin in slots: (count,) each."""
        position = slots if self._rings.rings == 1 else slots.remainder(self._length)
        ahead = (position + self._ahead).remainder_(self._length)  # (n, count)
        if position is not slots:
            ahead += slots - position
        steps = self._rows.index_select(0, ahead.view(-1)).view(*ahead.shape, -1)
        _, reward, terminated, ended = steps[..., :PAYLOAD].unbind(-1)
        # Of each step's successor: gamma^(j+1), or 0 behind an end.
        onward = torch.sub(self._gammas[0], ended, alpha=self._gamma).cumprod(0)[:-1]
        total = (onward * reward[1:]).sum(0) + reward[0]
        final = onward.ne(0.0).sum(0, keepdim=True)  # (1, count): m - 1
        power = self._gammas.index_select(0, final.view(-1))
        discount = torch.addcmul(power, power, terminated.gather(0, final).view(-1), value=-1.0)
        return total, discount, ahead.gather(0, final).view(-1)

    def _stacks(self, frames: Frames, slots: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """The observation of each window's first row, and the one after its last."""
        ring = slots.div(self._length, rounding_mode="floor")
        if first is last:
            return frames.pairs(ring, first[:, PAYLOAD].long())
        return frames.stacks(ring, first[:, PAYLOAD].long()), frames.stacks(ring, last[:, PAYLOAD].long(), True)

    def update_priorities(self, slot: Tensor, td_error: Tensor) -> None:
        """Errors of drawn transitions, both (..., batch); their sign does not matter."""
        assert self._priorities is not None
        self._priorities.update(slot, td_error)

    def break_episodes(self) -> None:
        """Ends every running episode by truncation after its newest transition.

        For environments that could not be restored and begin anew: no window and no stack of frames may cross that.
        """
        self._move()
        self._rings.break_episodes()
        if self._priorities:
            self._update_known(self._priorities)

    def state_dict(self) -> dict[str, Any]:
        self._move()
        return {
            "rings": self._rings.state_dict(),
            "draws": self._draws.state_dict(),
            "priorities": self._priorities.state_dict() if self._priorities else None,
            "known": [numbers.tolist() for numbers in self._known],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if (state["priorities"] is None) != (self._priorities is None):
            raise UserError("the checkpoint's replay is of another kind: leave model.prioritized as it was.")
        self._rings.load_state_dict(state["rings"])
        self._draws.load_state_dict(state["draws"])
        start, stop = state["known"]
        self._known = np.array(start, np.int64), np.array(stop, np.int64)
        if self._priorities:
            self._priorities.load_state_dict(state["priorities"])


def _nothing() -> RuntimeError:
    return RuntimeError("the replay holds nothing to draw yet")


def _check(capacity: int, spec: EnvSpec, num_envs: int, n_step: int) -> None:
    setting, length = f"data.replay_capacity={capacity}", capacity // num_envs
    if length < 1:
        raise ConfigError(f"{setting} is below data.num_envs={num_envs}: every environment needs a place.")
    if n_step > 1 and n_step >= length:
        raise ConfigError(
            f"model.n_step={n_step} is too long for {setting} and data.num_envs={num_envs}: "
            f"it must be below the {length} transitions that are held of each environment."
        )
    if spec.observation_dtype == "uint8" and length > EXACT - spec.frame_stack:
        raise ConfigError(f"{setting} is above {EXACT - spec.frame_stack} frames for each environment.")
    if (spec.num_states or 0) > EXACT:
        raise ConfigError(f"{spec.env_id} has {spec.num_states} states; this replay can number {EXACT}.")
