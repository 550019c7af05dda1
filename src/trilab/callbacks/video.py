"""A film of the best of a few greedy episodes, made after the test."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng

from trilab.data.rl.environments import Environments
from trilab.data.rl.serial import SerialVectorEnv
from trilab.errors import say
from trilab.ranges import NonNegativeInt, PositiveFloat, PositiveInt

#: Greedy actions for observations: (rows, *shape) -> (rows,); with several agents rows are agent-major.
Policy = Callable[[np.ndarray], np.ndarray]

#: Smaller pictures are enlarged to this height or width, whichever is the smaller: pixels.
SMALLEST_SIDE = 256
FALLBACK_FPS = 30.0


class Video(Callback):
    """Writes `artifacts/videos/best_episode.mp4` (H.264) below the run's folder.

    For a model with a `policy()` and data with a `video_environment(render)`; for others it does nothing. Of several
    agents the best one is filmed, into its own part of the folder (`seed_<seed>/artifacts/videos`). Whatever prevents
    it costs one line of warning and never the run, whose random streams it leaves as they were.

    Args:
        episodes: of each agent, of which the best is filmed; 0 for no film.
        max_frames: longest film.
        fps: frames a second; None for the environment's own.
        seed: of the first episode, apart from those of validation and test.
    """

    def __init__(
        self, episodes: NonNegativeInt, max_frames: PositiveInt, fps: PositiveFloat | None, seed: NonNegativeInt
    ) -> None:
        self.episodes = episodes
        self.max_frames = max_frames
        self.fps = fps
        self.seed = seed

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        able = hasattr(pl_module, "policy") and hasattr(data, "video_environment")
        if not (able and self.episodes and trainer.is_global_zero) or getattr(trainer, "fast_dev_run", False):
            return
        model: Any = pl_module
        try:
            with isolate_rng(), _no_screen():
                self._film(model.policy(), getattr(model, "seeds", [0]), data, Path(trainer.default_root_dir))
        except Exception as error:  # the run has its results, and a film is not worth them
            hint = "; pip install av" if isinstance(error, ImportError) else ""
            say(f"no video of the best episode: {type(error).__name__}: {error}{hint}")

    def _film(self, policy: Policy, seeds: Sequence[int], data: Any, folder: Path) -> None:
        filmed: gym.Env | None = data.video_environment(True)
        if filmed is None:
            say("no video of the best episode: the environment does not render pictures.")
            return
        try:
            agent, episode = self._best(policy, len(seeds), lambda: data.video_environment(False))
            place = folder / f"seed_{seeds[agent]}" if len(seeds) > 1 else folder
            fps = self.fps or filmed.metadata.get("render_fps") or FALLBACK_FPS
            pictures = self._pictures(filmed, policy, len(seeds), agent, self.seed + episode)
            write_mp4(place / "artifacts" / "videos" / "best_episode.mp4", pictures, fps)
        finally:
            filmed.close()

    def _best(self, policy: Policy, agents: int, make: Callable[[], gym.Env]) -> tuple[int, int]:
        """Which agent's which episode returns most; the first of equals."""
        environments = Environments(SerialVectorEnv(make, agents * self.episodes), restart=False, agents=agents)
        environments.reset([self.seed] * agents)
        returns, running = np.zeros(agents * self.episodes), np.ones(agents * self.episodes, bool)
        while running.any():
            step = environments.step(policy(environments.observations))
            returns += np.where(running, step.reward, 0.0)
            if step.done is not None:
                running &= ~step.done
        environments.close()
        agent, episode = divmod(int(returns.argmax()), self.episodes)
        return agent, episode

    def _pictures(self, env: gym.Env, policy: Policy, agents: int, agent: int, seed: int) -> Iterator[np.ndarray]:
        environments = Environments(SerialVectorEnv(lambda: env, 1), restart=False)
        environments.reset([seed])
        done = False
        for _ in range(self.max_frames):
            yield _picture(env)
            if done:
                return
            # The policy acts for all agents: every one sees the same, and only this one's action counts.
            seen = np.repeat(environments.observations, agents, axis=0)
            done = environments.step(policy(seen)[agent : agent + 1]).done is not None


def _picture(env: gym.Env) -> np.ndarray:
    """(height, width, 3) uint8, of even sides, as H.264 wants them."""
    picture: Any = env.render()
    picture = np.asarray(picture, np.uint8)
    factor = -(-SMALLEST_SIDE // min(picture.shape[:2]))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width, _ = picture.shape
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def write_mp4(path: Path, pictures: Iterator[np.ndarray], fps: float) -> None:
    """Encodes pictures, (height, width, 3) uint8 all of one size, as they come; a film that fails leaves no file."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.mp4")
    try:
        with av.open(str(partial), "w", options={"movflags": "faststart"}) as container:
            stream: Any = None
            for picture in pictures:
                if stream is None:
                    # veryfast: 1.7 ms a frame of CartPole where the default takes 2.1, for the same size.
                    options = {"crf": "23", "preset": "veryfast"}
                    stream = container.add_stream(
                        "libx264", rate=Fraction(fps).limit_denominator(1000), options=options
                    )
                    stream.height, stream.width = picture.shape[:2]
                    stream.pix_fmt = "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            if stream is not None:
                container.mux(stream.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _no_screen() -> Iterator[None]:
    """Keeps pygame from looking for a screen and loudspeakers, and from greeting."""
    wanted = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
