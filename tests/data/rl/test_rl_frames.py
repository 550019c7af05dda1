"""Frames stored once, against whole observations kept in lists."""

from collections import deque

import numpy as np
import pytest
import torch

from trilab.data.rl.replay import Prioritized, Replay
from trilab.data.rl.spec import EnvSpec

GAMMA = 0.9


class Films:
    """Random episodes of 2x3 frames, each different from all others; the first stack of an episode is padded somehow.

    Attributes:
        kept: (observation, action, reward, next observation, terminated, truncated) of every environment in order.
    """

    def __init__(self, stack, rows, padding, seed=0, ends=0.1):
        self.stack, self.rows, self.padding, self.ends = stack, rows, padding, ends
        self.rng = np.random.default_rng(seed)
        self.shown = 0
        self.stacks = [self.first() for _ in range(rows)]
        self.kept = [[] for _ in range(rows)]

    def frame(self):
        self.shown += 1
        return np.frombuffer(self.shown.to_bytes(6, "big"), np.uint8).reshape(2, 3)

    def first(self):
        newest = self.frame()
        leading = {
            "zeros": lambda: np.zeros((2, 3), np.uint8),
            "repeated": lambda: newest,
            "real": self.frame,  # what the environment showed while it did nothing
        }[self.padding]
        return deque([*(leading() for _ in range(self.stack - 1)), newest], maxlen=self.stack)

    def observe(self):
        stacks = np.array([list(stack) for stack in self.stacks])
        return stacks if self.stack > 1 else stacks[:, 0]

    def step(self, valid=None):
        rng, rows = self.rng, self.rows
        happens = np.ones(rows, bool) if valid is None else valid
        observation = self.observe()
        action, reward = rng.integers(0, 5, rows), rng.normal(size=rows).astype(np.float32)
        terminated, truncated = (rng.random(rows) < self.ends) & happens, (rng.random(rows) < self.ends) & happens
        for row in np.flatnonzero(happens):
            self.stacks[row].append(self.frame())
        following = self.observe()
        for row in np.flatnonzero(happens):
            self.kept[row].append(
                (observation[row], action[row], reward[row], following[row], terminated[row], truncated[row])
            )
            if terminated[row] or truncated[row]:
                self.stacks[row] = self.first()
        return observation, action, reward, following, terminated, truncated, valid

    def window(self, row, start, n):
        """(last transition's index, reward, discount) of a complete window."""
        total = 0.0
        for j, (_, _, reward, _, terminated, truncated) in enumerate(self.kept[row][start : start + n]):
            total += GAMMA**j * float(reward)
            if terminated or truncated or j == n - 1:
                return start + j, total, 0.0 if terminated else GAMMA ** (j + 1)
        return None


def make(films, agents, length, n=1, prioritized=None):
    shape = (films.stack, 2, 3) if films.stack > 1 else (2, 3)
    spec = EnvSpec("Toy-v0", shape, "uint8", 5, frame_stack=films.stack)
    envs = films.rows // agents
    return Replay(
        length * envs, spec, num_envs=envs, seeds=range(agents), n_step=n, gamma=GAMMA, prioritized=prioritized
    )


def check(replay, films, n, draws=800):
    """Draws are as kept, and are each environment's latest transitions without a gap; gives how many."""
    batch = replay.sample(draws)
    if replay.agents == 1:
        batch = batch._replace(**{name: value[None] for name, value in batch._asdict().items() if value is not None})
    assert batch.observation.dtype == batch.next_observation.dtype == torch.uint8
    by_reward = {
        float(kept[2]): (row, start) for row in range(films.rows) for start, kept in enumerate(films.kept[row])
    }
    by_row = {row: set() for row in range(films.rows)}
    for agent in range(replay.agents):
        for draw in range(draws):
            observation = batch.observation[agent, draw].numpy()
            if n == 1:
                row, start = by_reward[float(batch.reward[agent, draw])]
            else:
                row, start = films.by_newest[observation.reshape(films.stack, -1)[-1].tobytes()]
            if start in by_row[row]:
                continue  # the same transition again
            last, total, discount = films.window(row, start, n)
            assert row // replay.num_envs == agent
            assert (observation == films.kept[row][start][0]).all()
            assert batch.action[agent, draw] == films.kept[row][start][1]
            assert float(batch.reward[agent, draw]) == pytest.approx(total, rel=1e-5, abs=1e-6)
            assert float(batch.discount[agent, draw]) == pytest.approx(discount)
            if discount:
                assert (batch.next_observation[agent, draw].numpy() == films.kept[row][last][3]).all()
            by_row[row].add(start)
    for row, starts in by_row.items():
        complete = [start for start in range(len(films.kept[row])) if films.window(row, start, n) is not None]
        assert sorted(starts) == complete[len(complete) - len(starts) :]
    return [
        sum(len(by_row[agent * replay.num_envs + env]) for env in range(replay.num_envs))
        for agent in range(replay.agents)
    ]


@pytest.mark.parametrize("padding", ["zeros", "repeated", "real"])
@pytest.mark.parametrize(("agents", "envs", "stack", "n"), [(1, 1, 4, 1), (1, 2, 4, 3), (2, 2, 3, 1), (1, 2, 1, 1)])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("prioritized", [None, Prioritized(0.0, 0.1)], ids=["uniform", "prioritized"])
def test_stacks_come_back_as_they_were(agents, envs, stack, n, padding, masked, prioritized):
    films = Films(stack, agents * envs, padding, seed=stack + n)
    replay = make(films, agents, 23, n, prioritized)
    for steps in (8, 1, 13, 1, 40, 1):
        for _ in range(steps):
            valid = films.rng.random(films.rows) < 0.8 if masked else None
            replay.add(*films.step(valid))
        films.by_newest = {
            kept[0].reshape(stack, -1)[-1].tobytes(): (row, start)
            for row in range(films.rows)
            for start, kept in enumerate(films.kept[row])
        }
        assert replay.drawable == min(check(replay, films, n))


def test_a_ring_holds_as_many_transitions_as_its_frames_allow():
    whole = Films(4, 1, "zeros", ends=0.0)
    replay = make(whole, 1, 50)
    for count in range(1, 120):
        replay.add(*whole.step())
        assert len(replay) == replay.drawable == min(count, 50)
    # Episodes of one transition each cost their first stack of 4 frames, and a last one where they were cut off; the
    # ring has 50 + 4.
    single = Films(4, 1, "zeros", ends=1.0)
    replay = make(single, 1, 50)
    for _ in range(120):
        arrays = single.step()
        replay.add(*arrays[:4], np.ones(1, bool), np.zeros(1, bool))
    assert len(replay) == 54 // 4


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_draws_are_uniform_over_what_may_be_drawn(masked):
    films = Films(4, 2, "real", seed=2)
    replay, draws = make(films, 1, 30), 30_000
    for _ in range(80):
        replay.add(*films.step(films.rng.random(2) < 0.6 if masked else None))
    counts = torch.unique(replay.sample(draws).reward, return_counts=True)[1].double()
    assert len(counts) == replay.drawable
    chi_square = ((counts - draws / len(counts)) ** 2 / (draws / len(counts))).sum().item()
    freedom = len(counts) - 1
    assert abs(chi_square - freedom) < 3 * (2 * freedom) ** 0.5


def test_a_break_keeps_the_last_frame_and_begins_anew():
    films = Films(4, 2, "real", ends=0.03)
    replay = make(films, 1, 40)
    for steps in (6, 9, 30):
        for _ in range(steps):
            replay.add(*films.step())
        replay.break_episodes()
        films.stacks = [films.first() for _ in range(2)]
        assert replay.drawable == check(replay, films, 1)[0]


@pytest.mark.parametrize("before", [6, 70])
def test_a_restored_replay_goes_on_as_the_first_would_have(tmp_path, before):
    films = Films(4, 4, "real")
    first, second = make(films, 2, 30, n=2), make(films, 2, 30, n=2)
    for _ in range(before):
        first.add(*films.step())
    first.sample(5)
    torch.save(first.state_dict(), tmp_path / "replay.pt")
    second.load_state_dict(torch.load(tmp_path / "replay.pt", weights_only=True))
    for _ in range(70):
        arrays = films.step()
        for replay in (first, second):
            replay.add(*arrays)
        for a, b in zip(first.sample(5)[:5], second.sample(5)[:5], strict=True):
            assert torch.equal(a, b)


def test_memory_of_a_transition():
    spec = EnvSpec("Pong", (4, 84, 84), "uint8", 6, frame_stack=4)
    replay = Replay(1000, spec, num_envs=1, seeds=[0])
    frames = replay._rings.frames
    assert frames is not None
    tables = replay._rings.rows.nbytes + frames.table.nbytes + frames._before.nbytes
    # 84 * 84 bytes of one frame and 28 beside it: 7.1 GB for a million, where pairs of stacks take 56.4 GB.
    assert tables / 1000 < 1.01 * (84 * 84 + 28)
