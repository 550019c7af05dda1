import itertools

import pytest
import torch

from trilab.data.recsys import negatives as module
from trilab.data.recsys.negatives import CandidateBatches, CatalogueBatches, NegativeBatches, Unseen
from trilab.errors import UserError

USERS, ITEMS = 40, 25
CPU = torch.device("cpu")
TABLE, SEARCH = 2**20, 0  # bytes allowed for the table: both ways of drawing


def random_keys(seed: int = 0, share: float = 0.4) -> torch.Tensor:
    """User 0 has nothing, user 1 all but one item, user 2 all but five."""
    owned = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(seed)) < share
    owned[0], owned[1], owned[2] = False, True, True
    owned[1, 13] = False
    owned[2, [0, 3, 4, 20, 24]] = False
    return owned.flatten().nonzero().squeeze(1)


def lacking(keys: torch.Tensor, user: int) -> list[int]:
    owned = {key % ITEMS for key in keys.tolist() if key // ITEMS == user}
    return [item for item in range(ITEMS) if item not in owned]


def chi_square(counts: torch.Tensor) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def pairs(users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([users, items], 1), torch.zeros(len(users), 0)


def test_ranks_are_those_among_the_items_that_a_user_lacks():
    keys = random_keys()
    unseen = Unseen(keys, USERS, ITEMS)
    for user in range(USERS):
        expected = lacking(keys, user)
        assert unseen.free[user] == len(expected)
        found = unseen._items(torch.tensor([user]), torch.arange(len(expected)).unsqueeze(0))
        assert found.tolist() == [expected]


@pytest.mark.parametrize("table_bytes", [TABLE, SEARCH])
def test_drawn_items_are_lacking_and_uniform_over_them(table_bytes):
    keys = random_keys()
    unseen = Unseen(keys, USERS, ITEMS, table_bytes)
    users = torch.arange(USERS)
    drawn = unseen.draw(users, 5000, torch.Generator().manual_seed(1))
    assert drawn.dtype == torch.int32
    assert torch.equal(drawn // ITEMS, users.unsqueeze(1).expand(-1, 5000).int())
    for user in range(USERS):
        counts = torch.bincount((drawn[user] % ITEMS).long(), minlength=ITEMS)
        free = lacking(keys, user)
        assert counts.nonzero().squeeze(1).tolist() == free
        # 24 degrees of freedom at most: 51.2 is passed with p = 0.001.
        assert chi_square(counts[free].double()) < 60


def test_keys_beyond_32_bits():
    users, items = 3, 2**31
    keys = torch.tensor([5, items + 7, 2 * items + items - 1])
    drawn = Unseen(keys, users, items).draw(torch.tensor([0, 2]), 1000, torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int64
    assert (drawn // items).unique(dim=1).tolist() == [[0], [2]]
    assert not torch.isin(drawn, keys).any()
    assert 0.4 < (drawn % items).double().mean() / items < 0.6


def test_distinct_items_are_distinct_lacking_and_all_sets_equally_likely():
    keys = random_keys()
    unseen = Unseen(keys, USERS, ITEMS)
    users = torch.full((8000,), 2)  # lacks five
    drawn = unseen.distinct(users, 2, torch.Generator().manual_seed(2)).sort(1).values
    sets = list(itertools.combinations(lacking(keys, 2), 2))
    found = drawn.tolist()
    counts = torch.tensor([found.count(list(chosen)) for chosen in sets])
    assert counts.sum() == 8000
    assert chi_square(counts.double()) < 27.9  # 9 degrees of freedom, p = 0.001


def test_distinct_gives_all_that_is_lacking_where_no_more_are():
    keys = random_keys()
    drawn = Unseen(keys, USERS, ITEMS).distinct(torch.tensor([2, 0]), 5, torch.Generator().manual_seed(3))
    assert sorted(drawn[0].tolist()) == lacking(keys, 2)
    assert len(set(drawn[1].tolist())) == 5


def batches_of(keys: torch.Tensor, **options) -> NegativeBatches:
    options = {"negatives": 4, "batch_size": 64, "seed": 7, **options}
    return NegativeBatches(keys, USERS, ITEMS, options.pop("negatives"), pairs, device=CPU, **options)


def epoch_of(batches: NegativeBatches) -> list[tuple[torch.Tensor, ...]]:
    return [tuple(part.clone() for part in batch) for batch in batches]


def same(first, second) -> bool:
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_an_epoch_has_each_positive_once_and_negatives_of_its_user():
    keys = random_keys()
    batches = batches_of(keys)
    epoch = epoch_of(batches)
    assert len(epoch) == len(batches) == -(-len(keys) * 5 // 64)
    assert [len(labels) for _, _, labels in epoch[:-1]] == [64] * (len(epoch) - 1)
    ids, dense, labels = (torch.cat(column) for column in zip(*epoch, strict=True))
    assert (ids.dtype, dense.dtype, labels.dtype) == (torch.int64, torch.float32, torch.float32)
    assert dense.shape == (len(keys) * 5, 0)
    drawn = ids[:, 0] * ITEMS + ids[:, 1]
    assert torch.equal(drawn[labels == 1].sort().values, keys)
    assert not torch.isin(drawn[labels == 0], keys).any()
    per_user = torch.bincount(ids[labels == 0, 0], minlength=USERS)
    assert torch.equal(per_user, 4 * torch.bincount(keys // ITEMS, minlength=USERS))


def test_with_weights_a_positive_is_in_an_epoch_as_often_as_its_weight_says():
    keys = random_keys()
    weights = torch.rand(len(keys), generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3
    weights /= weights.mean()
    batches = batches_of(keys, weights=weights)
    total = torch.zeros(len(keys), dtype=torch.float64)
    for _ in range(400):
        ids, _, labels = (torch.cat(column) for column in zip(*batches, strict=True))
        drawn = ids[:, 0] * ITEMS + ids[:, 1]
        place = torch.searchsorted(keys, drawn[labels == 1])
        assert torch.equal(keys[place], drawn[labels == 1])
        copies = torch.bincount(place, minlength=len(keys))
        assert copies.sum() == len(keys)
        assert ((copies - weights).abs() < 1).all()
        assert not torch.isin(drawn[labels == 0], keys).any()
        own = torch.bincount(ids[labels == 1, 0], minlength=USERS)
        assert torch.equal(torch.bincount(ids[labels == 0, 0], minlength=USERS), 4 * own)
        total += copies
    # The share of 400 epochs in which a fraction is rounded up has a standard deviation of 0.025 at most.
    assert ((total / 400 - weights).abs() < 0.1).all()
    again = batches_of(keys, weights=weights)
    assert same(epoch_of(again), epoch_of(batches_of(keys, weights=weights)))
    assert not same(epoch_of(again), epoch_of(batches_of(keys, weights=weights, seed=8)))


def test_rows_are_shuffled():
    labels = torch.cat([labels for _, _, labels in batches_of(random_keys(), batch_size=50)])
    shares = labels[: len(labels) // 50 * 50].view(-1, 50).mean(1)
    assert shares.mean() == pytest.approx(0.2, abs=0.01)
    assert shares.std() < 0.1  # of a share of 50 with p = 0.2: 0.057


def test_a_held_out_item_is_drawn_like_any_other():
    keys = random_keys()
    held_out = int(keys[-1])
    batches = batches_of(keys[:-1], negatives=20)
    drawn = torch.cat([ids[:, 0] * ITEMS + ids[:, 1] for ids, _, _ in itertools.chain(batches, batches)])
    assert held_out in drawn


def test_epochs_differ_and_a_seed_always_has_the_same_ones():
    first, second, other = (batches_of(random_keys(), seed=seed) for seed in (1, 1, 2))
    epochs = [epoch_of(first) for _ in range(3)]
    assert all(same(epoch, epoch_of(second)) for epoch in epochs)
    negatives = [{tuple(row) for ids, _, labels in epoch for row in ids[labels == 0].tolist()} for epoch in epochs]
    assert negatives[0] != negatives[1] != negatives[2]
    assert not same(epochs[0], epochs[1])
    assert not same(epochs[0], epoch_of(other))
    first.set_epoch(1)
    assert same(epoch_of(first), epochs[1])


@pytest.mark.parametrize("block", [64, 200, 2**16])
def test_blocks_change_nothing_and_an_interrupted_epoch_goes_on_where_it_stopped(block, monkeypatch):
    expected = [epoch_of(batches := batches_of(random_keys())), epoch_of(batches), epoch_of(batches)]
    monkeypatch.setattr(module, "_BLOCK_ROWS", block)
    interrupted = batches_of(random_keys())
    assert same(epoch_of(interrupted), expected[0])
    iterator = iter(interrupted)
    for _ in range(5):
        next(iterator)
    resumed = batches_of(random_keys())
    resumed.load_state_dict(interrupted.state_dict())
    resumed.set_epoch(1)  # as Lightning does
    assert same(epoch_of(resumed), expected[1][5:])
    assert same(epoch_of(resumed), expected[2])


def test_without_shuffling_each_epoch_is_the_first():
    still, moving = batches_of(random_keys(), shuffle=False), batches_of(random_keys())
    first = epoch_of(still)
    assert same(first, epoch_of(still))
    assert same(first, epoch_of(moving))
    assert not hasattr(still, "sampler")
    assert moving.sampler is moving


def test_a_user_with_every_item_has_no_negatives():
    keys = torch.cat([torch.arange(ITEMS), torch.tensor([ITEMS + 3])])
    with pytest.raises(UserError, match=r"^user 0 has all 25 items in training, so there is no negative to draw\.$"):
        batches_of(keys)


def test_candidates_keep_their_order_and_doubles_of_the_own_item_are_not_ranked():
    users = torch.tensor([3, 5, 9])
    candidates = torch.tensor([[7, 1, 2, 3], [4, 4, 0, 4], [6, 5, 7, 6]])
    batches = CandidateBatches(users, candidates, pairs, batch_size=9)
    assert (len(batches), batches.name) == (2, "")  # two users fit, then one
    (ids, dense, labels), (last_ids, _, last_labels) = batches
    assert (ids.shape, dense.shape, labels.dtype) == ((2, 4, 2), (2, 4, 0), torch.int8)
    assert ids[..., 0].tolist() == [[3] * 4, [5] * 4]
    assert torch.equal(ids[..., 1], candidates[:2])
    assert torch.equal(last_ids[..., 1], candidates[2:])
    assert labels.tolist() == [[1, 0, 0, 0], [1, -1, 0, -1]]
    assert last_labels.tolist() == [[1, 0, 0, -1]]
    assert len(CandidateBatches(users, candidates, pairs, batch_size=1)) == 3  # one user at least


def test_the_catalogue_leaves_out_what_a_user_has():
    keys = random_keys()
    users = torch.tensor([0, 2, 5, 30, 39])
    own = torch.tensor([24, 20, *(lacking(keys, user)[-1] for user in (5, 30, 39))])
    batches = CatalogueBatches(users, own, keys, ITEMS, pairs, batch_size=2 * ITEMS)
    assert (len(batches), batches.name) == (3, "full")
    ids, _, labels = (torch.cat(column) for column in zip(*batches, strict=True))
    assert ids[..., 1].tolist() == [list(range(ITEMS))] * 5
    for row, user in enumerate(users.tolist()):
        expected = [0 if item in lacking(keys, user) else -1 for item in range(ITEMS)]
        expected[own[row]] = 1
        assert labels[row].tolist() == expected
        assert ids[row, :, 0].tolist() == [user] * ITEMS
