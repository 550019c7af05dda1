"""The film of the best episode: which one, how long, and never at the run's cost."""

import random
from types import SimpleNamespace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch

from trilab.callbacks.video import Video, write_mp4

av = pytest.importorskip("av")


class Countdown(gym.Env):
    """Seed s + k pays its k-th of the prizes at the end of 20 steps; the picture's brightness tells which is played."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 8}
    observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    prizes = (1.0, 4.0, 2.0)

    def __init__(self, first_seed):
        self.first_seed = first_seed

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.k, self.t = seed - self.first_seed, 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        prize = self.prizes[self.k] * (1 if action else 0.1) if self.t == 20 else 0.0
        return np.full(2, self.t / 20, np.float32), prize, self.t == 20, False, {}

    def render(self):
        return np.full((301, 257, 3), 40 * (self.k + 1) + self.t, np.uint8)


class Model:
    def __init__(self, seeds=(0,), action=lambda agent: 1):
        self.seeds = list(seeds)
        self.action = action

    def policy(self):
        def act(observations):
            agents = len(self.seeds)
            assert len(observations) % agents == 0
            each = len(observations) // agents
            np.random.rand(), random.random(), torch.rand(1)  # noqa: NPY002
            return np.repeat([self.action(agent) for agent in range(agents)], each)

        return act


def film(folder, model=None, episodes=3, max_frames=100, fps=None, make=lambda render: Countdown(7)):
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(video_environment=make),
        is_global_zero=True,
        fast_dev_run=False,
        default_root_dir=str(folder),
    )
    Video(episodes, max_frames, fps, seed=7).on_test_end(trainer, model or Model())
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]


def frames_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return pictures, float(stream.average_rate), stream.codec_context.name, stream.pix_fmt


def test_the_best_episode_is_filmed_from_start_to_end(tmp_path):
    assert film(tmp_path) == ["artifacts/videos/best_episode.mp4"]
    pictures, fps, codec, colours = frames_of(tmp_path / "artifacts/videos/best_episode.mp4")
    assert (len(pictures), fps, codec, colours) == (21, 8.0, "h264", "yuv420p")
    assert pictures[0].shape == (302, 258, 3), "even sides, as the codec wants them"
    # The second of the three pays most: brightness 80, and one more each step.
    for t, picture in enumerate(pictures):
        assert abs(float(picture.mean()) - (80 + t)) < 3


def test_length_and_speed_are_knobs(tmp_path):
    film(tmp_path, max_frames=5, fps=12.5)
    pictures, fps, *_ = frames_of(tmp_path / "artifacts/videos/best_episode.mp4")
    assert (len(pictures), fps) == (5, 12.5)


def test_of_several_agents_the_best_one_is_filmed(tmp_path):
    model = Model(seeds=(10, 20, 30), action=lambda agent: int(agent == 1))
    assert film(tmp_path, model) == ["seed_20/artifacts/videos/best_episode.mp4"]


def test_small_pictures_are_enlarged(tmp_path):
    class Small(Countdown):
        def render(self):
            return np.full((50, 40, 3), 9, np.uint8)

    film(tmp_path, make=lambda render: Small(7))
    pictures, *_ = frames_of(tmp_path / "artifacts/videos/best_episode.mp4")
    assert pictures[0].shape == (350, 280, 3)


def test_it_changes_no_random_stream(tmp_path):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = state()
    film(tmp_path)
    assert state() == before


@pytest.mark.parametrize("episodes", [0, 3])
def test_it_can_be_switched_off_and_leaves_others_alone(tmp_path, episodes, capsys):
    model = Model() if episodes == 0 else SimpleNamespace()
    assert film(tmp_path, model, episodes=episodes) == []
    assert capsys.readouterr().err == ""


def test_what_prevents_it_costs_one_line_and_not_the_run(tmp_path, capsys, monkeypatch):
    class Broken(Countdown):
        def render(self):
            if self.t == 3:
                raise gym.error.DependencyNotInstalled("pygame is not\ninstalled")
            return super().render()

    assert film(tmp_path, make=lambda render: Broken(7)) == [], "half a film is none"
    assert film(tmp_path, make=lambda render: None if render else Countdown(7)) == []
    with monkeypatch.context() as context:
        context.setitem(__import__("sys").modules, "av", None)
        assert film(tmp_path) == []
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "pygame is not installed" in lines[0]
    assert "does not render" in lines[1]
    assert "pip install av" in lines[2]


def test_an_interrupt_is_not_swallowed(tmp_path):
    def interrupted(render):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        film(tmp_path, make=interrupted)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "FrozenLake-v1", "Taxi-v4"])
def test_real_environments_are_filmed_without_a_screen(tmp_path, env_id, monkeypatch, capfd):
    pytest.importorskip("pygame")
    from trilab.data.rl.environment import make_single

    monkeypatch.delenv("DISPLAY", raising=False)
    files = film(tmp_path, Model(), max_frames=10, make=lambda render: make_single(env_id, None, None, render))
    assert files == ["artifacts/videos/best_episode.mp4"]
    pictures, *_ = frames_of(tmp_path / files[0])
    assert len({picture.tobytes() for picture in pictures}) > 1 or env_id != "CartPole-v1"
    assert capfd.readouterr() == ("", "")


def test_a_film_that_breaks_off_leaves_no_file(tmp_path):
    def pictures():
        yield np.zeros((64, 64, 3), np.uint8)
        raise RuntimeError("the environment is gone")

    with pytest.raises(RuntimeError, match="gone"):
        write_mp4(tmp_path / "film.mp4", pictures(), 30)
    assert list(tmp_path.iterdir()) == []
