"""What experience costs: transitions of CartPole written and drawn, and drawn by priority.

    python benchmarks/replay.py [--batch 128] [--repeats 5]

Two comparisons, one torch thread, each pair measured in turn:

- ten transitions added and one batch drawn, against a NumPy array for each field and `torch.from_numpy` on what is
  taken from them; also with windows of 3 steps, and with ten agents, which is ten times the work;
- one batch drawn by priority and its priorities updated, without the transitions, against a binary sum tree walked in
  Python, sample by sample, and against one cumulative sum over all priorities.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from trilab.data.rl.priorities import Priorities
from trilab.data.rl.replay import Prioritized, Replay
from trilab.data.rl.spec import EnvSpec

CARTPOLE = EnvSpec("CartPole-v1", (4,), "float32", 2)
ADDED = 10  # transitions for each batch


class Arrays:
    """An array for each field."""

    def __init__(self, capacity: int) -> None:
        self.observation, self.following = np.zeros((2, capacity, 4), np.float32)
        self.action = np.zeros(capacity, np.int64)
        self.reward, self.terminated = np.zeros((2, capacity), np.float32)
        self.at = 0

    def add(self, observation, action, reward, following, terminated) -> None:  # type: ignore[no-untyped-def]
        at = self.at = (self.at + 1) % len(self.action)
        self.observation[at], self.following[at] = observation[0], following[0]
        self.action[at], self.reward[at], self.terminated[at] = action[0], reward[0], terminated[0]

    def sample(self, batch: int) -> list[torch.Tensor]:
        at = np.random.randint(len(self.action), size=batch)  # noqa: NPY002
        fields = self.observation, self.action, self.reward, self.following, self.terminated
        return [torch.from_numpy(field[at]) for field in fields]


class BinaryTree:
    """A node's children are 2 i and 2 i + 1; changes are added on the way up."""

    def __init__(self, size: int) -> None:
        self.first = 1 << (size - 1).bit_length()
        self.node = [0.0] * (2 * self.first)
        for leaf in range(self.first, self.first + size):
            self.node[leaf] = 1.0
        for parent in range(self.first - 1, 0, -1):
            self.node[parent] = self.node[2 * parent] + self.node[2 * parent + 1]

    def step(self, batch: int, errors: np.ndarray) -> None:
        node, total = self.node, self.node[1]
        drawn = []
        for stratum, number in enumerate(np.random.rand(batch)):  # noqa: NPY002
            mass, at = (stratum + number) / batch * total, 1
            while at < self.first:
                at *= 2
                if mass >= node[at]:
                    mass -= node[at]
                    at += 1
            drawn.append(at)
        _ = (min(node[at] for at in drawn) / np.array([node[at] for at in drawn])) ** 0.4
        for at, value in zip(drawn, (np.abs(errors) + 1e-6) ** 0.6, strict=True):
            change = float(value) - node[at]
            while at:
                node[at] += change
                at //= 2


class Cumulative:
    """One cumulative sum over all priorities for each batch."""

    def __init__(self, size: int) -> None:
        self.value = torch.ones(size, dtype=torch.float64)

    def step(self, batch: int, errors: torch.Tensor) -> None:
        sums = self.value.cumsum(0)
        mass = (torch.arange(batch) + torch.rand(batch, dtype=torch.float64)) * (sums[-1] / batch)
        drawn = torch.searchsorted(sums, mass, right=True).clamp_(max=len(sums) - 1)
        value = self.value[drawn]
        _ = (value.min() / value).pow(0.4)
        self.value[drawn] = (errors.double().abs() + 1e-6).pow(0.6)


def microseconds(function: Callable[[], object]) -> float:
    """Of one call: the median of three runs of 20 ms and more."""
    count, times = 1, []
    while len(times) < 3:
        start = time.perf_counter()
        for _ in range(count):
            function()
        spent = time.perf_counter() - start
        if spent < 0.02:
            count *= 2
        else:
            times.append(spent / count)
    return 1e6 * statistics.median(times)


def compare(title: str, repeats: int, **functions: Callable[[], object]) -> None:
    """Prints each function's time, and how many times that of the first it is."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(microseconds(function))
    first = next(iter(times.values()))
    print(title)
    for name, own in times.items():
        ratio = statistics.median(mine / base for mine, base in zip(own, first, strict=True))
        print(f"  {name.replace('_', ' '):<22}{statistics.median(own):9.1f} us {ratio:9.2f}")


def writing_and_drawing(batch: int, agents: int = 1, n_step: int = 1) -> Callable[[], object]:
    replay = Replay(10_000, CARTPOLE, num_envs=1, seeds=range(agents), n_step=n_step, gamma=0.99)
    observation, no = np.zeros((agents, 4), np.float32), np.zeros(agents, bool)
    arrays = observation, np.zeros(agents, np.int64), np.ones(agents), observation, no, no
    for _ in range(10_000):
        replay.add(*arrays)

    def step() -> None:
        for _ in range(ADDED):
            replay.add(*arrays)
        replay.sample(batch)

    return step


def by_priority(priorities: Priorities, batch: int, errors: torch.Tensor) -> None:
    slots, _ = priorities.sample(torch.randint(2**62, (batch,)), 0.4)
    priorities.update(slots, errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=128, help="transitions in a batch")
    parser.add_argument("--repeats", type=int, default=5, help="times that everything is measured, in turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch = options.batch

    plain = Arrays(10_000)
    observation = np.zeros((1, 4), np.float32)
    row = observation, np.zeros(1, np.int64), np.ones(1), observation, np.zeros(1, bool)

    def arrays() -> None:
        for _ in range(ADDED):
            plain.add(*row)
        plain.sample(batch)

    compare(
        f"{ADDED} transitions in, a batch of {batch} out",
        options.repeats,
        packed_rows=writing_and_drawing(batch),
        an_array_each=arrays,
        packed_3_steps=writing_and_drawing(batch, n_step=3),
        packed_10_agents=writing_and_drawing(batch, agents=10),
    )
    for size in (10_000, 50_000, 1_000_000):
        ours = Priorities(Prioritized(0.6, 1e-6), (), size, torch.device("cpu"))
        ours.enter(np.arange(0), np.arange(size))
        binary, cumulative, errors = BinaryTree(size), Cumulative(size), torch.rand(batch)
        compare(
            f"{batch} of {size:,} by priority, and updated",
            options.repeats,
            wide_tree=partial(by_priority, ours, batch, errors),
            binary_tree=partial(binary.step, batch, errors.numpy()),
            cumulative_sum=partial(cumulative.step, batch, errors),
        )


if __name__ == "__main__":
    main()
