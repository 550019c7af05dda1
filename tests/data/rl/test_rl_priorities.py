"""The wide sum tree against a cumulative sum, and prioritised replay against its paper's equations."""

import math

import numpy as np
import pytest
import torch

from trilab.data.rl import priorities
from trilab.data.rl.priorities import Prioritized, SumTree
from trilab.data.rl.replay import Replay
from trilab.data.rl.spec import EnvSpec

CPU = torch.device("cpu")
SPEC = EnvSpec("Toy-v0", (1,), "float32", 5)


@pytest.fixture(params=[(64, 2**14), (3, 2), (4, 5)], ids=["as it is", "deep", "less deep"])
def fan_out(request, monkeypatch):
    """The same tree with its own fan-out and root, and with such as make it many levels deep."""
    monkeypatch.setattr(priorities, "FAN_OUT", request.param[0])
    monkeypatch.setattr(priorities, "ROOT", request.param[1])


def fill(tree, leaves):
    """leaves: (trees, size)"""
    tree.set(torch.arange(leaves.numel()), leaves.flatten().double())


@pytest.mark.usefixtures("fan_out")
@pytest.mark.parametrize(("trees", "size"), [(1, 1), (1, 50), (3, 50), (2, 64), (1, 40_000)])
def test_a_share_is_found_where_the_cumulative_sum_reaches_it(trees, size):
    generator = torch.Generator().manual_seed(size)
    leaves = torch.randint(0, 4, (trees, size), generator=generator)  # whole numbers: every sum is exact
    leaves[:, size // 2] = 1
    tree = SumTree((trees,) if trees > 1 else (), size, CPU)
    fill(tree, leaves)
    share = torch.rand(trees, 500, generator=generator, dtype=torch.float64)
    share[:, 0] = 0.0
    index, value = tree.find(share if trees > 1 else share[0])
    for agent in range(trees):
        sums = leaves[agent].numpy().cumsum()
        expected = np.searchsorted(sums, share[agent].numpy() * sums[-1], side="right")
        own = index.view(trees, -1)[agent]
        assert (own.numpy() == agent * size + expected).all()
        assert torch.equal(value.view(trees, -1)[agent], leaves[agent, own - agent * size].double())
        assert torch.equal(tree.get(own), leaves[agent, own - agent * size].double())


@pytest.mark.usefixtures("fan_out")
@pytest.mark.parametrize("seed", range(5))
def test_a_leaf_of_value_0_is_never_found(seed):
    generator = torch.Generator().manual_seed(seed)
    # Values of all magnitudes, most of them 0, and shares on the very edges.
    leaves = 10 ** (torch.rand(2, 300, generator=generator, dtype=torch.float64) * 12 - 6)
    leaves *= torch.rand(2, 300, generator=generator) < 0.2
    tree = SumTree((2,), 300, CPU)
    fill(tree, leaves)
    edges = leaves.cumsum(1) / leaves.sum(1, keepdim=True)
    share = torch.cat((edges, torch.tensor([[0.0, 1.0, 1.0 - 1e-16, 1e-300]] * 2)), 1).clamp(max=1.0)
    assert (tree.find(share)[1] > 0).all()


@pytest.mark.usefixtures("fan_out")
def test_sums_do_not_drift():
    generator = torch.Generator().manual_seed(0)
    size, leaves = 1000, torch.zeros(2000, dtype=torch.float64)
    tree, fresh = SumTree((2,), size, CPU), SumTree((2,), size, CPU)
    for _ in range(2000):
        index = torch.randint(0, 2000, (16,), generator=generator)
        value = 10 ** (torch.rand(2000, generator=generator, dtype=torch.float64) * 16 - 8)
        tree.set(index, value[index])  # equal indices, equal values
        leaves[index] = value[index]
    fresh.set(torch.arange(2000), leaves)
    for level, same in zip(tree.levels, fresh.levels, strict=True):
        torch.testing.assert_close(level, same, rtol=1e-15, atol=0.0)
    for total, own in zip(tree.levels[0].sum(1).tolist(), leaves.view(2, -1), strict=True):
        assert total == pytest.approx(math.fsum(own.tolist()), rel=1e-14)


def replay_of(count, alpha=0.6, epsilon=0.01, capacity=10, **more):
    replay = Replay(capacity, SPEC, num_envs=1, seeds=[7], prioritized=Prioritized(alpha, epsilon), **more)
    for number in range(count):
        add(replay, number)
    assert len(replay) == min(count, capacity)
    return replay


def add(replay, number):
    """A transition whose action is its number."""
    no = np.zeros(1, bool)
    replay.add(np.full((1, 1), number), np.full(1, number), np.zeros(1), np.full((1, 1), number + 1), no, no)


def test_frequencies_are_the_papers_probabilities():
    replay, errors = replay_of(10), torch.tensor([0.0, 0.1, -0.5, 1.0, -2.0, 3.0, 0.7, 5.0, 0.2, 0.05])
    replay.update_priorities(torch.arange(10), errors)
    batches, k = 3000, 8
    counts = torch.zeros(10, dtype=torch.float64)
    for _ in range(batches):
        counts += torch.bincount(replay.sample(k).action, minlength=10)
    priority = [(abs(error) + 0.01) ** 0.6 for error in errors.tolist()]
    expected = torch.tensor(priority, dtype=torch.float64) / sum(priority) * batches * k
    # Stratified draws vary less than independent ones, whose chi-square is 27.9 in one case of a thousand (9 degrees).
    assert ((counts - expected) ** 2 / expected).sum() < 27.9


def test_one_is_drawn_from_each_of_k_equal_ranges():
    replay = replay_of(10)  # all of one priority: k = 10 ranges of one transition each
    for _ in range(20):
        assert replay.sample(10).action.tolist() == list(range(10))
        assert (replay.sample(5).action // 2).tolist() == list(range(5))


def test_weights_by_hand():
    replay = replay_of(4, alpha=1.0, epsilon=0.0)
    replay.update_priorities(torch.arange(4), torch.tensor([1.0, 2.0, -4.0, 1.0]))
    batch = replay.sample(64, beta=0.5)
    assert set(batch.action.tolist()) == {0, 1, 2, 3}
    # P = 1/8, 2/8, 4/8, 1/8; N P = 1/2, 1, 2, 1/2; to the -1/2: 1.414, 1, 0.707, 1.414; over the largest:
    by_hand = torch.tensor([1.0, 0.70710678, 0.5, 1.0])
    torch.testing.assert_close(batch.weight, by_hand[batch.action])
    assert batch.weight.dtype == torch.float32
    assert (replay.sample(64, beta=0.0).weight == 1.0).all()
    torch.testing.assert_close(replay.sample(64, beta=1.0).weight, torch.tensor([1.0, 0.5, 0.25, 1.0])[batch.action])


def values(replay, slots):
    return replay._priorities.tree.get(torch.tensor(slots)).tolist()


def test_new_transitions_get_the_largest_priority_so_far():
    replay = replay_of(3, alpha=0.5, epsilon=0.25)
    assert values(replay, [0, 1, 2, 3]) == [1.0, 1.0, 1.0, 0.0]
    replay.update_priorities(torch.tensor([0, 1]), torch.tensor([-8.75, 0.0]))  # (8.75 + 0.25) ** 0.5 = 3
    add(replay, 3)
    replay.sample(1)
    assert values(replay, [0, 1, 2, 3, 4]) == [3.0, 0.5, 1.0, 3.0, 0.0]
    replay.update_priorities(torch.tensor([0, 3]), torch.tensor([0.0, 0.0]))
    add(replay, 4)  # the largest so far, though no transition has it any more
    replay.sample(1)
    assert values(replay, [0, 3, 4]) == [0.5, 0.5, 3.0]


def test_transitions_out_of_the_draw_stay_out():
    replay = replay_of(10, alpha=1.0, epsilon=0.0, n_step=3)
    drawn = replay.sample(40).slot
    assert drawn.max() == 7  # 8 and 9 have no complete window yet
    for number in range(10, 13):  # overwrites the slots 0 to 2, of which 1 and 2 are now the incomplete ones
        add(replay, number)
    assert replay.drawable == 8
    replay.update_priorities(torch.arange(8), torch.full((8,), 2.0))
    assert values(replay, range(10)) == [2.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0]
    assert {1, 2}.isdisjoint(replay.sample(500).slot.tolist())


def test_an_error_that_is_no_number_changes_nothing():
    replay = replay_of(4, alpha=1.0, epsilon=0.0)
    replay.update_priorities(torch.arange(4), torch.tensor([math.nan, math.inf, 0.5, 3.0]))
    assert values(replay, range(4)) == [1.0, 1.0, 0.5, 3.0]
    assert set(replay.sample(400).action.tolist()) == {0, 1, 2, 3}


def test_every_agent_has_its_own_largest_priority():
    replay = Replay(4, SPEC, num_envs=1, seeds=[0, 1], prioritized=Prioritized(1.0, 0.0))
    no = np.zeros(2, bool)
    arrays = np.zeros((2, 1)), np.zeros(2), np.zeros(2), np.ones((2, 1)), no, no
    replay.add(*arrays)
    replay.sample(2)
    replay.update_priorities(torch.tensor([[0, 0], [4, 4]]), torch.tensor([[5.0, 5.0], [0.5, 0.5]]))
    replay.add(*arrays)
    replay.sample(2)
    assert values(replay, [0, 1, 4, 5]) == [5.0, 5.0, 0.5, 1.0]
