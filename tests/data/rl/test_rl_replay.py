"""The replay against a naive one: a list of transitions for each environment, and windows built by walking along it."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from trilab.data.rl.replay import Prioritized, Replay
from trilab.data.rl.spec import EnvSpec
from trilab.errors import ConfigError, UserError

VECTOR = EnvSpec("Toy-v0", (3,), "float32", 5)
MATRIX = EnvSpec("Toy-v0", (2, 3), "float32", 5)
STATE = EnvSpec("Toy-v0", (), "int64", 5, num_states=10**6)
GAMMA = 0.9


@dataclass
class Transition:
    number: int  # of s among all observations of its environment
    action: int
    reward: float
    terminated: bool
    truncated: bool


@dataclass
class Stream:
    """Random episodes in a few environments, fed to a replay and kept in plain lists.

    Every observation is a number of its own, environment * 10,000 + count; an episode's end has one too.
    """

    spec: EnvSpec
    rows: int
    seed: int = 0
    masks: str = "none"  # none, next_step: a row of no meaning after each end, waiting: rows stand still at random
    transitions: list[list[Transition]] = field(init=False)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)
        self.transitions = [[] for _ in range(self.rows)]
        self.now = np.zeros(self.rows, int)
        self.resetting = np.zeros(self.rows, bool)

    def show(self, numbers):
        ids = np.arange(self.rows) * 10_000 + numbers
        dtype = np.int64 if self.spec.observation_dtype == "int64" else np.float32
        return (
            np.ones((self.rows, *self.spec.observation_shape))
            * ids.reshape(-1, *[1] * len(self.spec.observation_shape))
        ).astype(dtype)

    def step(self):
        rng, rows = self.rng, self.rows
        action, reward = rng.integers(0, 5, rows), rng.normal(size=rows)
        terminated, truncated = rng.random(rows) < 0.12, rng.random(rows) < 0.12
        valid = None
        if self.masks == "next_step":
            valid = ~self.resetting
        elif self.masks == "waiting":
            valid = rng.random(rows) < 0.7
        happens = np.ones(rows, bool) if valid is None else valid
        terminated, truncated = terminated & happens, truncated & happens
        arrays = (self.show(self.now), action, reward, self.show(self.now + 1), terminated, truncated, valid)
        for row in np.flatnonzero(happens):
            self.transitions[row].append(
                Transition(self.now[row], action[row], reward[row], terminated[row], truncated[row])
            )
        done = terminated | truncated
        self.now += np.where(happens, 1 + done, 0)  # past s' of the end, to the next episode's first
        self.resetting = done
        return arrays

    def window(self, row, start, n):
        """What a batch should say of the window that begins at a transition; None where it is not complete."""
        total, held = 0.0, self.transitions[row][start : start + n]
        for j, transition in enumerate(held):
            total += GAMMA**j * transition.reward
            if transition.terminated or transition.truncated or j == n - 1:
                following = row * 10_000 + transition.number + 1
                return held[0].action, total, following, 0.0 if transition.terminated else GAMMA ** (j + 1)
        return None

    def drawable(self, row, length, n):
        """By the number of its first observation, every transition among the last `length` that may be drawn."""
        count = len(self.transitions[row])
        windows = {start: self.window(row, start, n) for start in range(max(0, count - length), count)}
        return {
            row * 10_000 + self.transitions[row][start].number: window
            for start, window in windows.items()
            if window is not None
        }


def check_batch(replay, stream, n, draws=1500):
    """Every drawn transition is as the naive replay has it, every one that may be drawn is, and no other."""
    agents, envs, length = replay.agents, replay.num_envs, replay.capacity // replay.num_envs
    batch = sampled = replay.sample(draws)
    if agents == 1:
        batch = batch._replace(**{name: value[None] for name, value in batch._asdict().items() if value is not None})
    assert batch.observation.shape == (agents, draws, *stream.spec.observation_shape)
    assert batch.observation.dtype == getattr(torch, stream.spec.observation_dtype) == batch.next_observation.dtype
    assert batch.action.dtype == torch.int64
    for agent in range(agents):
        expected = {}
        for row in range(agent * envs, (agent + 1) * envs):
            expected |= stream.drawable(row, length, n)
        first = batch.observation[agent].reshape(draws, -1)
        following = batch.next_observation[agent].reshape(draws, -1)
        assert (first == first[:, :1]).all()
        assert (following == following[:, :1]).all()
        columns = (first[:, 0], batch.action[agent], batch.reward[agent], following[:, 0], batch.discount[agent])
        drawn = {values[0]: values[1:] for values in zip(*(column.tolist() for column in columns), strict=True)}
        assert set(drawn) == set(expected)
        for key, window in expected.items():
            assert drawn[key] == pytest.approx(window, rel=1e-5, abs=1e-6)
    return sampled


@pytest.mark.parametrize("masks", ["none", "next_step", "waiting"])
@pytest.mark.parametrize(
    ("agents", "envs", "n"), [(1, 1, 1), (1, 1, 3), (1, 3, 1), (1, 3, 4), (3, 1, 3), (2, 3, 1), (2, 2, 5)]
)
@pytest.mark.parametrize("prioritized", [None, Prioritized(0.6, 0.01)], ids=["uniform", "prioritized"])
def test_batches_are_those_of_a_naive_replay(agents, envs, n, masks, prioritized):
    replay = Replay(
        11 * envs, VECTOR, num_envs=envs, seeds=range(agents), n_step=n, gamma=GAMMA, prioritized=prioritized
    )
    stream = Stream(VECTOR, agents * envs, seed=n, masks=masks)
    for steps in (9, 1, 2, 6, 1, 30, 1, 3):  # before, at and long after the rings are full
        for _ in range(steps):
            replay.add(*stream.step())
        batch = check_batch(replay, stream, n)
        counts = [
            sum(len(stream.drawable(agent * envs + env, 11, n)) for env in range(envs)) for agent in range(agents)
        ]
        assert replay.drawable == min(counts)
        held = [
            sum(min(11, len(stream.transitions[agent * envs + env])) for env in range(envs)) for agent in range(agents)
        ]
        assert len(replay) == min(held)
        if prioritized:
            replay.update_priorities(batch.slot, torch.rand(batch.slot.shape) + 0.3)  # none too rare to be seen


@pytest.mark.parametrize("spec", [MATRIX, STATE], ids=["matrix", "state"])
@pytest.mark.parametrize("agents", [1, 2])
def test_observations_of_any_shape(spec, agents):
    replay, stream = Replay(20, spec, num_envs=2, seeds=range(agents), gamma=GAMMA), Stream(spec, 2 * agents)
    for _ in range(14):
        replay.add(*stream.step())
    check_batch(replay, stream, 1)


def test_a_staging_area_that_overflows_loses_nothing():
    replay, stream = Replay(700, VECTOR, num_envs=1, seeds=[0], n_step=2, gamma=GAMMA), Stream(VECTOR, 1)
    for _ in range(1000):  # without a draw in between
        replay.add(*stream.step())
    check_batch(replay, stream, 2, draws=15_000)


@pytest.mark.parametrize("envs", [1, 3])
def test_rows_are_moved_in_torch_as_they_are_in_numpy(envs):
    replay = Replay(11 * envs, VECTOR, num_envs=envs, seeds=[0], n_step=2, gamma=GAMMA)
    rings = replay._rings
    rings._in_numpy, rings._by_ring = False, rings.rows.view(envs, 11, -1)  # as on any device but the CPU
    stream = Stream(VECTOR, envs)
    for steps in (4, 3, 9, 30, 1):
        for _ in range(steps):
            replay.add(*stream.step())
        check_batch(replay, stream, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("prioritized", [None, Prioritized(0.6, 0.01)], ids=["uniform", "prioritized"])
@pytest.mark.parametrize("masks", ["none", "waiting"])
@pytest.mark.parametrize(("agents", "envs", "n"), [(1, 1, 1), (1, 3, 3), (2, 2, 1)])
def test_a_cuda_device_draws_what_the_cpu_does(agents, envs, n, masks, prioritized):
    replays = [
        Replay(
            11 * envs,
            VECTOR,
            num_envs=envs,
            seeds=range(agents),
            device=device,
            n_step=n,
            gamma=GAMMA,
            prioritized=prioritized,
        )
        for device in ("cpu", "cuda")
    ]
    stream = Stream(VECTOR, agents * envs, masks=masks)
    for steps in (9, 3, 30):
        for _ in range(steps):
            arrays = stream.step()
            for replay in replays:
                replay.add(*arrays)
        for one, other in zip(*(replay.sample(64, beta=0.5) for replay in replays), strict=True):
            assert one is other is None or torch.allclose(one, other.cpu())


@pytest.mark.parametrize(("envs", "n"), [(1, 1), (1, 3), (3, 3)])
def test_draws_are_uniform_over_what_may_be_drawn(envs, n):
    replay = Replay(16 * envs, VECTOR, num_envs=envs, seeds=[3], n_step=n, gamma=GAMMA)
    stream = Stream(VECTOR, envs, seed=5, masks="waiting")
    for _ in range(40):
        replay.add(*stream.step())
    draws = 40_000
    drawn = replay.sample(draws).observation[:, 0]
    counts = torch.unique(drawn, return_counts=True)[1].double()
    cells = sum(len(stream.drawable(row, 16, n)) for row in range(envs))
    assert len(counts) == cells
    chi_square = ((counts - draws / cells) ** 2 / (draws / cells)).sum().item()
    freedom = cells - 1
    # Mean and variance of the distribution are freedom and 2 freedom; the draws are fixed by their seed, and neither
    # uneven ones (above) nor ones without replacement (near 0) fall within.
    assert abs(chi_square - freedom) < 3 * (2 * freedom) ** 0.5


def test_nothing_can_be_drawn_before_a_window_is_complete():
    def add(terminated):
        no, yes = np.zeros(1, bool), np.full(1, terminated)
        replay.add(np.zeros((1, 3)), np.zeros(1, int), np.ones(1), np.ones((1, 3)), yes, no)

    for prioritized in (None, Prioritized(0.5, 0.1)):
        replay = Replay(10, VECTOR, num_envs=1, seeds=[0], n_step=3, gamma=0.5, prioritized=prioritized)
        for count in range(3):
            assert (len(replay), replay.drawable) == (count, max(0, count - 2))
            with pytest.raises(RuntimeError, match="nothing to draw"):
                replay.sample(4)
            add(count == 2)
        batch = replay.sample(50)
        assert replay.drawable == 3  # the end completes all windows: 1 + 1/2 + 1/4, 1 + 1/2, 1
        assert set(batch.reward.tolist()) == {1.75, 1.5, 1.0}
        assert set(batch.discount.tolist()) == {0.0}


def test_windows_shortened_by_truncation_bootstrap_with_the_real_power():
    replay = Replay(10, VECTOR, num_envs=1, seeds=[0], n_step=3, gamma=0.5)
    for count in range(4):
        observation, end = np.full((1, 3), count), np.full(1, count == 3)
        replay.add(observation, [count], [2.0**count], observation + 1, np.zeros(1, bool), end)
    batch = replay.sample(100)
    rows = zip(
        batch.action.tolist(),
        batch.reward.tolist(),
        batch.next_observation[:, 0].tolist(),
        batch.discount.tolist(),
        strict=True,
    )
    # Rewards 1, 2, 4, 8: 1 + 2/2 + 4/4, and so on; s_4 is the true last observation.
    assert set(rows) == {(0, 3.0, 3.0, 0.125), (1, 6.0, 4.0, 0.125), (2, 8.0, 4.0, 0.25), (3, 8.0, 4.0, 0.5)}


@pytest.mark.parametrize("prioritized", [None, Prioritized(0.6, 0.01)], ids=["uniform", "prioritized"])
@pytest.mark.parametrize("masks", ["none", "waiting"])
@pytest.mark.parametrize(("envs", "n"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_agents_of_a_batch_draw_what_they_would_alone(envs, n, masks, prioritized):
    def make(seeds):
        return Replay(9 * envs, VECTOR, num_envs=envs, seeds=seeds, n_step=n, gamma=GAMMA, prioritized=prioritized)

    together, alone = make([4, 5, 6]), [make([seed]) for seed in (4, 5, 6)]
    stream = Stream(VECTOR, 3 * envs, masks=masks)
    for step in range(60):
        arrays = stream.step()
        together.add(*arrays)
        for agent, replay in enumerate(alone):
            replay.add(*(None if array is None else array[agent * envs : (agent + 1) * envs] for array in arrays))
        if step < 12:
            continue
        batch = together.sample(8, beta=0.4)
        errors = torch.randn(3, 8, generator=torch.Generator().manual_seed(step))
        for agent, replay in enumerate(alone):
            own = replay.sample(8, beta=0.4)
            for name in ("observation", "action", "reward", "next_observation", "discount"):
                torch.testing.assert_close(getattr(own, name), getattr(batch, name)[agent])
            if prioritized:
                torch.testing.assert_close(own.weight, batch.weight[agent])
                assert torch.equal(own.slot + agent * replay.capacity, batch.slot[agent])
                replay.update_priorities(own.slot, errors[agent])
        if prioritized:
            together.update_priorities(batch.slot, errors)


@pytest.mark.parametrize("prioritized", [None, Prioritized(0.6, 0.01)], ids=["uniform", "prioritized"])
@pytest.mark.parametrize("agents", [1, 2])
@pytest.mark.parametrize("before", [5, 23])
def test_a_restored_replay_goes_on_as_the_first_would_have(tmp_path, before, agents, prioritized):
    def make(seed):
        seeds = range(seed, seed + agents)
        return Replay(20, VECTOR, num_envs=2, seeds=seeds, n_step=3, gamma=GAMMA, prioritized=prioritized)

    def live(replay, steps):
        batches = []
        for arrays in steps:
            replay.add(*arrays)
            if replay.drawable:
                batches.append(replay.sample(6, beta=0.5))
                if prioritized:
                    replay.update_priorities(batches[-1].slot, batches[-1].reward)
        return batches

    first, second, stream = make(1), make(50), Stream(VECTOR, 2 * agents)
    live(first, [stream.step() for _ in range(before)])
    torch.save(first.state_dict(), tmp_path / "replay.pt")
    second.load_state_dict(torch.load(tmp_path / "replay.pt", weights_only=True))
    steps = [stream.step() for _ in range(90)]
    for one, other in zip(live(first, steps), live(second, steps), strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_a_replay_of_another_size_is_refused():
    state = Replay(8, VECTOR, num_envs=2, seeds=[1]).state_dict()
    for capacity, envs, prioritized in ((10, 2, None), (8, 1, None), (8, 2, Prioritized(0.5, 0.1))):
        with pytest.raises(UserError, match=r"as (they were|it was)"):
            Replay(capacity, VECTOR, num_envs=envs, seeds=[1], prioritized=prioritized).load_state_dict(state)


@pytest.mark.parametrize("prioritized", [None, Prioritized(0.6, 0.01)], ids=["uniform", "prioritized"])
def test_no_window_crosses_a_break(prioritized):
    replay = Replay(60, VECTOR, num_envs=2, seeds=[1], n_step=4, gamma=GAMMA, prioritized=prioritized)
    stream = Stream(VECTOR, 2)
    for steps in (7, 1, 12):
        for _ in range(steps):
            replay.add(*stream.step())
        replay.break_episodes()
        for transitions in stream.transitions:
            transitions[-1].truncated = True
        stream.now += 5  # somewhere else
        check_batch(replay, stream, 4)


def test_seeds_give_the_draws():
    def draws(seed):
        replay, stream = Replay(100, VECTOR, num_envs=1, seeds=[seed]), Stream(VECTOR, 1)
        for _ in range(100):
            replay.add(*stream.step())
        return replay.sample(32).reward

    assert torch.equal(draws(1), draws(1))
    assert not torch.equal(draws(1), draws(2))


@pytest.mark.parametrize(
    ("capacity", "envs", "n", "message"),
    [
        (10, 1, 10, r"model.n_step=10 .* data.replay_capacity=10 .* below the 10 transitions"),
        (10, 4, 2, r"model.n_step=2 .* data.replay_capacity=10 and data.num_envs=4: .* below the 2"),
        (3, 4, 1, r"data.replay_capacity=3 is below data.num_envs=4"),
    ],
)
def test_sizes_that_cannot_work(capacity, envs, n, message):
    with pytest.raises(ConfigError, match=message):
        Replay(capacity, VECTOR, num_envs=envs, seeds=[0], n_step=n)
