"""One meaning of "step" for all the autoreset modes of vector environments, for one agent or several.

A vector environment starts a new episode in one of three ways (https://farama.org/Vector-Autoreset-Mode), and each
hides a trap for whoever stores transitions (s, a, r, s'):

- NEXT_STEP: the step after an episode's end only resets; its action is ignored, and it is no transition.
- SAME_STEP: the observation returned at an episode's end is already the next episode's first; the true s' is
  `infos["final_obs"]`.
- DISABLED: nothing happens until the finished environments are reset by hand.

`Environments` reads the mode and returns from every step the true s', and which rows are transitions at all.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from trilab.data.rl import snapshots
from trilab.data.rl.serial import SerialVectorEnv
from trilab.data.rl.spaces import observation_dtype, start
from trilab.errors import UserError


class Step(NamedTuple):
    """What one step gave: arrays of E = agents * num_envs rows, agent-major, good until the next step."""

    next_observation: np.ndarray  # s', the true successor, at an episode's end too
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    done: np.ndarray | None  # terminated or truncated; None: nowhere
    valid: np.ndarray | None  # which rows are transitions; None: all of them


class Environments:
    """A vector environment, and the observations to act on next.

    Args:
        vector: any Gymnasium vector environment.
        restart: False leaves finished environments as they are, where the vector allows it: evaluation plays one
            episode in each.
        agents: share the vector, with equally many environments each. More than one only in a SerialVectorEnv, where
            no environment knows of another; see `SideBySide` for the others.
    """

    def __init__(self, vector: VectorEnv, restart: bool = True, agents: int = 1) -> None:
        mode = vector.metadata.get("autoreset_mode")
        if mode is None:
            raise UserError(f"{vector} does not say how it restarts episodes (metadata['autoreset_mode']).")
        self._serial = vector if isinstance(vector, SerialVectorEnv) else None
        if agents > 1 and self._serial is None:
            raise ValueError("several agents would share the random generator of this vector")
        self.vector = vector
        self.mode = AutoresetMode(mode)
        self.agents = agents
        #: Of each agent.
        self.num_envs = vector.num_envs // agents
        #: The observations to act on: (agents * num_envs, *shape), the caller's to keep.
        self.observations: np.ndarray = np.empty(0)
        #: What else the vector's last step or reset told.
        self.infos: dict[str, Any] = {}
        self._restart = restart or self._serial is None
        self._first_action, self._first_state = (
            start(vector.single_action_space),
            start(vector.single_observation_space),
        )
        self._dtype = observation_dtype(vector.single_observation_space)
        self._settings = {} if self._serial is not None else snapshots.settings(vector)
        self._seeds: list[int] = []
        self._resetting: np.ndarray | None = None

    def reset(self, seeds: Sequence[int]) -> None:
        """Starts every environment anew.

        Args:
            seeds: one an agent; its environment i gets seed + i where the vector seeds them one by one.
        """
        self._seeds = list(seeds)
        if self._serial is not None:
            each = [seed + i for seed in seeds for i in range(self.num_envs)]
            raw, self.infos = self._serial.reset(seed=each)
        else:
            (seed,) = seeds
            raw, self.infos = self.vector.reset(seed=seed)
        self.observations = self._own(raw)
        self._resetting = None

    def step(self, actions: np.ndarray, behind: np.ndarray | None = None) -> Step:
        """Steps the environments.

        Args:
            actions: (agents * num_envs,) counted from 0.
            behind: (agents,) only these agents' environments take a step; the rows of the others are no transitions,
                and their observations stay. None: all do.
        """
        if self._first_action:
            actions = actions + self._first_action
        rows = None if behind is None or behind.all() else np.repeat(behind, self.num_envs)
        if rows is None:
            raw, reward, terminated, truncated, self.infos = self.vector.step(actions)
        elif self._serial is not None:
            raw, reward, terminated, truncated, self.infos = self._serial.step(actions, rows)
        else:  # the only agent waits
            nowhere = np.zeros(len(rows), bool)
            return Step(self.observations, np.zeros(len(rows)), nowhere, nowhere, None, rows)
        successor = self.observations = self._own(raw)
        done = None
        if self._serial is None or self._serial.any_done:  # of the one, it is known at no cost
            done = terminated | truncated
            done = done if done.any() else None
        valid = rows
        if self.mode is AutoresetMode.NEXT_STEP:
            valid = None if self._resetting is None else ~self._resetting
            self._resetting = done
        elif done is not None and self.mode is AutoresetMode.SAME_STEP:
            successor = successor.copy()
            for i in np.flatnonzero(done):
                successor[i] = self.infos["final_obs"][i]
            if self._first_state:
                successor[done] -= self._first_state
        elif done is not None and self._restart:  # DISABLED
            # The reset may clear the very arrays that the step has returned.
            terminated, truncated = terminated.copy(), truncated.copy()
            self.observations = self._own(self.vector.reset(options={"reset_mask": done})[0])
        return Step(successor, reward, terminated, truncated, done, valid)

    def _own(self, observations: np.ndarray) -> np.ndarray:
        """In our type, and a copy, for vectors may reuse their buffer, and s is still needed when s' has come."""
        own = observations if self._serial is not None else np.array(observations, self._dtype)
        return own - self._first_state if self._first_state else own

    def state_dict(self) -> dict[str, Any] | None:
        """What another process needs to go on from here: plain values and tensors. None where that cannot be had."""
        if self._serial is not None:
            return {"agents": self.agents, "serial": self._serial.state_dict()}
        if (vector := snapshots.take(self.vector)) is None:
            return None
        return {
            "agents": 1,
            "settings": self._settings,
            "vector": vector,
            "observations": snapshots.pack(self.observations),
            "resetting": snapshots.pack(self._resetting),
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> bool:
        """Goes on where other environments, made alike, stood.

        Returns:
            False where it cannot: then the environments begin new episodes, as after their last reset.
        """
        if self._load(state):
            return True
        if self._seeds:
            self.reset(self._seeds)
        return False

    def _load(self, state: dict[str, Any] | None) -> bool:
        if state is None or state["agents"] != self.agents:
            return False
        if self._serial is not None:
            if len(state.get("serial", [])) != self._serial.num_envs:
                return False
            observations = self._serial.load_state_dict(state["serial"])
            if observations is None:
                return False
            self.observations = self._own(observations)
            return True
        if state.get("settings") != self._settings or not snapshots.restore(self.vector, state["vector"]):
            return False
        self.observations = snapshots.unpack(state["observations"])
        self._resetting = snapshots.unpack(state["resetting"])
        return True

    def close(self) -> None:
        self.vector.close()


class SideBySide(Environments):
    """Several agents, each with a vector environment of its own, stepped in turn: as random as alone.

    Args:
        parts: one an agent, made alike.
    """

    def __init__(self, parts: Sequence[Environments]) -> None:
        self.parts = list(parts)
        first = parts[0]
        self.vector, self.mode = first.vector, first.mode
        self.agents, self.num_envs = len(parts), first.num_envs
        self.observations = np.empty(0)

    def reset(self, seeds: Sequence[int]) -> None:
        for part, seed in zip(self.parts, seeds, strict=True):
            part.reset([seed])
        self._gather()

    def _gather(self) -> None:
        self.observations = np.concatenate([part.observations for part in self.parts])

    def step(self, actions: np.ndarray, behind: np.ndarray | None = None) -> Step:
        own = actions.reshape(self.agents, self.num_envs)
        steps = [part.step(own[a], None if behind is None else behind[a : a + 1]) for a, part in enumerate(self.parts)]
        self._gather()
        successor = self.observations
        if any(step.next_observation is not part.observations for step, part in zip(steps, self.parts, strict=True)):
            successor = np.concatenate([step.next_observation for step in steps])
        return Step(
            successor,
            np.concatenate([step.reward for step in steps]),
            np.concatenate([step.terminated for step in steps]),
            np.concatenate([step.truncated for step in steps]),
            _masks([step.done for step in steps], np.zeros(self.num_envs, bool)),
            _masks([step.valid for step in steps], np.ones(self.num_envs, bool)),
        )

    def state_dict(self) -> dict[str, Any] | None:
        states = [part.state_dict() for part in self.parts]
        return None if None in states else {"agents": self.agents, "parts": states}

    def load_state_dict(self, state: dict[str, Any] | None) -> bool:
        """As of one; all of them begin new episodes where one cannot go on."""
        alike = state is not None and state["agents"] == self.agents and "parts" in state
        states = state["parts"] if alike and state is not None else [None] * self.agents
        loaded = all(part.load_state_dict(own) for part, own in zip(self.parts, states, strict=True))
        if not loaded:
            for part in self.parts:
                part.load_state_dict(None)
        self._gather()
        return loaded

    def close(self) -> None:
        for part in self.parts:
            part.close()


def _masks(masks: Sequence[np.ndarray | None], default: np.ndarray) -> np.ndarray | None:
    if all(mask is None for mask in masks):
        return None
    return np.concatenate([default if mask is None else mask for mask in masks])
