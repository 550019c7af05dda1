"""Atari 2600 games: emulated, cut down to 84x84 grey and stacked by ale-py in C++, with what it leaves undone.

What ale-py 0.12's `AtariVectorEnv` does otherwise than the agents of https://doi.org/10.1038/nature14236, or wrongly,
and is done here instead:

- `episodic_life` starts a new game at every lost life, so that the agent never sees a second one. Here the game goes on
  and the transition terminates; the episode, and its return, are the whole game's.
- `life_loss_info` lets the game go on, but returns an old observation as `final_obs`.
- At its own limit of frames it leaves the last frame out of the last observation, which bootstrapping needs.
- `reward_clipping` would clip what is logged and evaluated too: rewards come unclipped.

As there: a game begins with fewer than `noop_max` frames of doing nothing (and FIRE, where there is that button); its
first observation is one frame after black ones; a frame of an observation is the maximum of an action's last two.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from trilab.data.rl.environment import registered
from trilab.data.rl.environments import Environments, SideBySide, Step
from trilab.errors import ConfigError

#: Pictures a second of the console itself.
CONSOLE_FPS = 60
#: Frames, more than any game has; the emulator refuses to do without a limit.
_NO_LIMIT = 2**30


class AtariEnvironments(Environments):
    """Games of one agent.

    Args:
        vector: an AtariVectorEnv in SAME_STEP mode, with neither life losses nor a limit of its own.
        max_episode_steps: a game is cut off after so many steps.
        episodic_life: whether a lost life terminates the transition.
    """

    def __init__(self, vector: VectorEnv, max_episode_steps: int, episodic_life: bool) -> None:
        super().__init__(vector)
        self._limit = max_episode_steps
        self._episodic_life = episodic_life
        self._steps = np.zeros(self.num_envs, np.int64)
        self._lives = np.zeros(self.num_envs, np.int64)

    def reset(self, seeds: Sequence[int]) -> None:
        super().reset(seeds)
        self._steps[:] = 0
        self._lives = self.infos["lives"].copy()

    def step(self, actions: np.ndarray, behind: np.ndarray | None = None) -> Step:
        step = super().step(actions, behind)
        if step.valid is not None:  # it waits
            return step
        terminated, truncated, done = step.terminated, step.truncated, step.done
        lives = self.infos["lives"].copy()
        if self._episodic_life:
            terminated = terminated | (lives < self._lives)
        self._lives = lives
        self._steps += 1
        if done is not None:
            self._steps[done] = 0
        if (late := self._steps >= self._limit).any():
            truncated = late
            done = late if done is None else done | late
            raw, self.infos = self.vector.reset(options={"reset_mask": late})
            self.observations = self._own(raw)
            self._lives = self.infos["lives"].copy()
            self._steps[late] = 0
        return Step(step.next_observation, step.reward, terminated, truncated, done, None)

    def close(self) -> None:
        super().close()
        # The vector has no `close`, and emulators that are still there when Python ends complain over many lines.
        self.vector.ale = None  # type: ignore[attr-defined]

    def state_dict(self) -> None:
        return None  # the emulators have no state to be read


def make_atari(
    env_id: str,
    num_envs: int,
    *,
    agents: int,
    max_episode_steps: int,
    episodic_life: bool,
    frame_skip: int,
    frame_stack: int,
    noop_max: int,
    repeat_action_probability: float,
    full_action_space: bool,
    threads: int,
) -> Environments:
    """Games by their Gymnasium id (ALE/Pong-v5).

    Args:
        env_id: its version's own settings are not taken over.
        num_envs: of each agent.
        agents: how many there are; each has emulators of its own.
        max_episode_steps: a game is cut off after so many steps.
        episodic_life: whether a lost life terminates the transition.
        frame_skip: frames that an action is repeated for: one step.
        frame_stack: frames in an observation, so many steps.
        noop_max: a game begins with fewer frames than this of doing nothing, at random.
        repeat_action_probability: in each frame, of going on with the last action instead.
        full_action_space: all 18 actions rather than those that the game knows.
        threads: of each agent's emulators; 0 for as many as there are cores.

    Raises:
        ConfigError: there is no such game.
    """
    settings: dict[str, Any] = {
        "stack_num": frame_stack,
        "frameskip": frame_skip,
        "noop_max": noop_max,
        "repeat_action_probability": repeat_action_probability,
        "full_action_space": full_action_space,
        "num_threads": threads,
    }
    game = game_of(env_id)
    parts = [AtariEnvironments(_vector(game, num_envs, settings), max_episode_steps, episodic_life)
             for _ in range(agents)]  # fmt: skip
    return parts[0] if agents == 1 else SideBySide(parts)


def game_of(env_id: str) -> str:
    """The emulator's name of a game."""
    game = registered(env_id).kwargs.get("game")
    if game is None:
        raise ConfigError(
            f"data.env_id={env_id}: no game of Atari's. They are called ALE/Pong-v5, ALE/Breakout-v5, ..."
        )
    return str(game)


def _vector(game: str, num_envs: int, settings: dict[str, Any]) -> VectorEnv:
    from ale_py.vector_env import AtariVectorEnv

    vector: VectorEnv = AtariVectorEnv(
        game,
        num_envs,
        autoreset_mode=AutoresetMode.SAME_STEP,
        max_num_frames_per_episode=_NO_LIMIT,
        reward_clipping=False,
        episodic_life=False,
        life_loss_info=False,
        **settings,
    )
    return vector


class AtariScreen(gym.Env):
    """One game as an agent sees it, and, for videos, as a person would.

    The emulator does not show its screen beside the agent's observations, so a second one plays the same game: it gets
    the same seed and the same actions.

    Args:
        env_id: see `make_atari`, as for the others.
        render: whether `render` will be asked for.
    """

    def __init__(
        self,
        env_id: str,
        render: bool,
        *,
        frame_skip: int,
        frame_stack: int,
        noop_max: int,
        repeat_action_probability: float,
        full_action_space: bool,
    ) -> None:
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": CONSOLE_FPS / frame_skip}
        self.render_mode = "rgb_array" if render else None
        settings: dict[str, Any] = {
            "frameskip": frame_skip,
            "noop_max": noop_max,
            "repeat_action_probability": repeat_action_probability,
            "full_action_space": full_action_space,
            "num_threads": 1,
        }
        game = game_of(env_id)
        self._vector = _vector(game, 1, {**settings, "stack_num": frame_stack})
        # 210x160 is the console's own size: nothing is scaled.
        screen = {"stack_num": 1, "img_height": 210, "img_width": 160, "grayscale": False}
        self._screen = _vector(game, 1, {**settings, **screen}) if render else None
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space
        self._picture: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is None:  # both emulators need the same
            seed = int(self.np_random.integers(2**31 - 1))
        observation, _ = self._vector.reset(seed=seed)
        if self._screen is not None:
            self._picture = self._screen.reset(seed=seed)[0][0, 0].copy()
        return observation[0].copy(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        actions = np.array([action], np.int64)
        observation, reward, terminated, truncated, infos = self._vector.step(actions)
        if self._screen is not None:
            picture, _, ended, _, final = self._screen.step(actions)
            self._picture = (final["final_obs"] if ended[0] else picture)[0, 0].copy()
        if terminated[0]:
            observation = infos["final_obs"]
        return observation[0].copy(), float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """(210, 160, 3) uint8"""
        return self._picture

    def close(self) -> None:
        self._vector.close()
        if self._screen is not None:
            self._screen.close()
