from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from trilab.data.recsys.synthetic import Planted, SyntheticClicks, zipf
from trilab.errors import ConfigError


def make(**changes) -> SyntheticClicks:
    arguments = {"train_rows": 20_000, "val_rows": 1000, "test_rows": 4000, "fields": 5, "cardinality": 20,
                 "exponent": 1.1, "dense": 3, "factors": 2, "signal": 2.0, "interaction": 0.5, "bias": -1.0,
                 "planted_seed": 1, "batch_size": 100, "eval_batch_size": 500, "seed": 1}  # fmt: skip
    data = SyntheticClicks(**{**arguments, **changes})
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def rows(loader) -> tuple[torch.Tensor, ...]:
    return tuple(torch.cat(column) for column in zip(*loader, strict=True))


def test_planted_logits_are_equation_1_over_all_pairs():
    planted = Planted.draw(np.random.default_rng(0), [6] * 4, 2, 3, signal=2.0, interaction=0.5, bias=-0.7)
    rng = np.random.default_rng(1)
    ids, dense = rng.integers(0, 6, (10, 4)), rng.normal(size=(10, 2))
    logits = planted.logits(ids, dense)
    for row in range(10):
        expected = -0.7 + sum(dense[row, d] * planted.dense[d] for d in range(2))
        expected += sum(planted.linear[field][ids[row, field]] for field in range(4))
        for i, j in combinations(range(4), 2):
            expected += planted.factors[i][ids[row, i]] @ planted.factors[j][ids[row, j]]
        assert logits[row] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("interaction", [0.0, 0.5, 1.0])
def test_signal_and_interaction_are_what_they_say(interaction):
    """Over many planted models, the logit has the standard deviation asked for, and the pairs their share of it."""
    rng = np.random.default_rng(2)
    ids, dense = rng.integers(0, 50, (200, 6)), rng.normal(size=(200, 4))
    total, linear = [], []
    for _ in range(300):
        planted = Planted.draw(rng, [50] * 6, 4, 3, signal=1.5, interaction=interaction, bias=0.0)
        total.append(planted.logits(ids, dense))
        linear.append(dense @ planted.dense + sum(planted.linear[f][ids[:, f]] for f in range(6)))
    assert np.var(total) == pytest.approx(1.5**2, rel=0.05)
    assert np.var(linear) / 1.5**2 == pytest.approx(1 - interaction, abs=0.05)


def test_ids_follow_zipfs_law():
    n, cardinality = 200_000, 10
    counts = np.bincount(zipf(np.random.default_rng(0), [cardinality], 1.3, n)[:, 0], minlength=cardinality)
    weights = np.array([1 / rank**1.3 for rank in range(1, cardinality + 1)])
    expected = n * weights / weights.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # chi-square with 9 degrees of freedom, p = 0.001
    flat = np.bincount(zipf(np.random.default_rng(0), [4], 0.0, n)[:, 0], minlength=4)
    assert flat / n == pytest.approx([0.25] * 4, abs=0.005)


def test_clicks_are_calibrated_to_the_planted_probabilities():
    data = make(train_rows=100_000)
    ids, dense, labels = rows(data.train_dataloader())
    true = 1 / (1 + np.exp(-data.planted().logits(ids.numpy(), dense.double().numpy())))
    edges = np.quantile(true, np.linspace(0, 1, 11))
    for low, high in pairwise(edges):
        chosen = (true >= low) & (true <= high)
        mean, n = true[chosen].mean(), chosen.sum()
        assert abs(labels.numpy()[chosen].mean() - mean) < 4 * np.sqrt(mean * (1 - mean) / n)


def test_reference_is_the_score_of_the_true_probabilities_on_the_test_labels():
    data = make()
    ids, dense, labels = rows(data.test_dataloader())
    true = 1 / (1 + np.exp(-data.planted().logits(ids.numpy(), dense.double().numpy())))
    assert set(data.reference) == {"test/bayes_auc", "test/bayes_logloss"}
    assert data.reference["test/bayes_auc"] == pytest.approx(roc_auc_score(labels, true), abs=1e-6)
    assert data.reference["test/bayes_logloss"] == pytest.approx(log_loss(labels, true), abs=1e-6)
    assert 0.75 < data.reference["test/bayes_auc"] < 0.95


def test_batches_have_the_types_and_sizes_of_the_spec():
    data = make()
    assert data.spec.cardinalities == (20,) * 5
    ids, dense, labels = next(iter(data.train_dataloader()))
    assert (ids.shape, ids.dtype) == ((100, 5), torch.int64)
    assert (dense.shape, dense.dtype) == ((100, 3), torch.float32)
    assert (labels.shape, labels.dtype) == ((100,), torch.float32)
    assert set(labels.tolist()) == {0.0, 1.0}
    assert [loader.rows for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())] == [
        20_000, 1000, 4000,
    ]  # fmt: skip


def test_a_seed_is_a_data_set_and_more_training_rows_leave_the_test_alone():
    first, longer, other = make(), make(train_rows=30_000), make(seed=2)
    assert np.array_equal(first.planted().factors[0], other.planted().factors[0])
    assert not np.array_equal(first.planted().factors[0], make(planted_seed=2).planted().factors[0])
    for a, b in zip(rows(first.test_dataloader()), rows(longer.test_dataloader()), strict=True):
        assert torch.equal(a, b)
    assert first.reference == longer.reference != other.reference
    assert not torch.equal(rows(first.test_dataloader())[0], rows(other.test_dataloader())[0])
    train, test = rows(first.train_dataloader())[1], rows(first.test_dataloader())[1]
    assert not set(map(tuple, train.tolist())) & set(map(tuple, test.tolist()))


def test_fields_of_different_sizes_have_their_own_ids_and_names():
    sizes = [3, 1, 200, 7, 50]
    data = make(cardinality=sizes, train_rows=50_000)
    assert data.spec.cardinalities == tuple(sizes)
    assert (data.spec.fields, data.spec.dense_names) == (("c0", "c1", "c2", "c3", "c4"), ("d0", "d1", "d2"))
    ids = rows(data.train_dataloader())[0].numpy()
    assert (ids.max(0) + 1).tolist() == sizes
    for field, size in enumerate(sizes):
        weights = np.array([1 / rank**1.1 for rank in range(1, size + 1)])
        shares = np.bincount(ids[:, field], minlength=size) / len(ids)
        assert shares[0] == pytest.approx(weights[0] / weights.sum(), abs=0.01)
    assert [len(linear) for linear in data.planted().linear] == sizes


def test_one_number_and_a_list_of_it_are_the_same_log():
    for a, b in zip(rows(make().test_dataloader()), rows(make(cardinality=[20] * 5).test_dataloader()), strict=True):
        assert torch.equal(a, b)


def test_the_random_streams_are_those_of_earlier_versions():
    """What is known of a planted model, such as the goal of an experiment, must stay true of it."""
    data = make()
    assert data.reference["test/bayes_auc"] == pytest.approx(0.8755279, abs=1e-6)
    assert rows(data.test_dataloader())[0].sum().item() == 82_379


def test_a_list_of_another_length_is_refused():
    with pytest.raises(ConfigError, match=r"data.cardinality has 2 numbers for data.fields=5"):
        make(cardinality=[10, 20])


@pytest.mark.parametrize("changes", [{"fields": 1}, {"dense": 0}, {"cardinality": 1}])
def test_degenerate_tables_still_work(changes):
    data = make(train_rows=500, test_rows=500, **changes)
    ids, dense, labels = rows(data.train_dataloader())
    assert ids.max() < data.spec.cardinalities[0]
    assert dense.shape == (500, data.spec.dense)
    assert labels.isfinite().all()
