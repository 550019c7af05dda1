import numpy as np
import pytest
import torch

from trilab.data.rl.replay import ReplayBuffer
from trilab.data.rl.spec import EnvSpec

VECTOR = EnvSpec("Toy-v0", (3,), "float32", 5, None)
IMAGE = EnvSpec("Toy-v0", (2, 4, 4), "uint8", 5, None)


def transitions(spec, start, count):
    """Transition k holds k in every field."""
    ids = np.arange(start, start + count)
    dtype = np.dtype(spec.observation_dtype)
    observation = np.ones((count, *spec.observation_shape), dtype) * ids.reshape(-1, *[1] * len(spec.observation_shape))
    return (
        observation.astype(dtype),
        ids % spec.num_actions,
        ids / 2,
        (observation + 1).astype(dtype),
        ids % 3 == 0,
    )


def check_rows(batch, spec):
    ids = (batch.reward * 2).long()
    for field, value in ((batch.observation, ids), (batch.next_observation, ids + 1)):
        assert field.shape == (len(ids), *spec.observation_shape)
        assert field.dtype == getattr(torch, spec.observation_dtype)
        assert (field.flatten(1) == value[:, None]).all()
    assert (batch.action == ids % spec.num_actions).all()
    assert (batch.terminated == (ids % 3 == 0).float()).all()
    return ids


@pytest.mark.parametrize("spec", [VECTOR, IMAGE], ids=["vector", "image"])
def test_batches_hold_whole_transitions_of_the_last_capacity(spec):
    replay, written = ReplayBuffer(10, spec, seed=1), 0
    for count in (1, 3, 4, 9, 10, 7, 25, 1, 2, 2, 2, 40):
        replay.add(*transitions(spec, written, count))
        written += count
        held = min(written, 10)
        assert len(replay) == held
        ids = check_rows(replay.sample(400), spec)
        assert set(ids.tolist()) == set(range(written - held, written))


def test_sampling_is_uniform_over_the_written_slots():
    replay = ReplayBuffer(1000, VECTOR, seed=3)
    replay.add(*transitions(VECTOR, 0, 50))
    draws = 50_000
    counts = torch.bincount(check_rows(replay.sample(draws), VECTOR), minlength=50).double()
    assert len(counts) == 50
    expected = draws / 50
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    # 49 degrees of freedom: mean 49, standard deviation 9.9; 85.4 is passed by one fair buffer in a thousand, and
    # draws without replacement from such a batch would give nearly 0.
    assert 20 < chi_square < 85.4


def test_an_empty_buffer_says_so():
    with pytest.raises(RuntimeError, match="empty"):
        ReplayBuffer(10, VECTOR).sample(2)


@pytest.mark.parametrize("spec", [VECTOR, IMAGE], ids=["vector", "image"])
def test_state_round_trip_continues_the_same_draws(spec):
    first, second = ReplayBuffer(8, spec, seed=1), ReplayBuffer(8, spec, seed=2)
    first.add(*transitions(spec, 0, 11))
    first.sample(4)
    second.load_state_dict(first.state_dict())
    for replay in (first, second):
        replay.add(*transitions(spec, 11, 3))
    assert all(torch.equal(a, b) for a, b in zip(first.sample(64), second.sample(64), strict=True))
    with pytest.raises(ValueError, match="does not fit"):
        ReplayBuffer(5, spec).load_state_dict(first.state_dict())


def test_seeds_give_the_draws():
    def draws(seed):
        replay = ReplayBuffer(100, VECTOR, seed=seed)
        replay.add(*transitions(VECTOR, 0, 100))
        return replay.sample(32).reward

    assert torch.equal(draws(1), draws(1))
    assert not torch.equal(draws(1), draws(2))
