import math
import time

import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from trilab.data.recsys.metrics import auc, grouped_auc, logloss


def naive_auc(scores, labels):
    positives = [s for s, y in zip(scores, labels, strict=True) if y]
    negatives = [s for s, y in zip(scores, labels, strict=True) if not y]
    right = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return right / (len(positives) * len(negatives))


@pytest.mark.parametrize("levels", [2, 5, 10**6])  # many ties, some, practically none
@pytest.mark.parametrize("seed", range(3))
def test_auc_is_the_share_of_pairs_in_order_ties_included(levels, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (300,), generator=generator).float()
    labels = (torch.rand(300, generator=generator) < 0.2).float()
    expected = naive_auc(scores.tolist(), labels.tolist())
    assert auc(scores, labels) == pytest.approx(expected, abs=1e-12)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels.numpy(), scores.numpy()), abs=1e-12)


def test_auc_of_hand_made_cases():
    labels = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert auc(torch.tensor([1.0, 2.0, 3.0, 4.0]), labels) == 1.0
    assert auc(torch.tensor([4.0, 3.0, 2.0, 1.0]), labels) == 0.0
    assert auc(torch.zeros(4), labels) == 0.5
    assert auc(torch.tensor([0.1, 0.4, 0.35, 0.8]), labels) == 0.75  # 3 of 4 pairs
    assert math.isnan(auc(torch.rand(4), torch.ones(4)))


def test_auc_is_exact_where_float32_sums_would_not_be():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(300_000, generator=generator)
    labels = (torch.rand(300_000, generator=generator) < scores).float()
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels.numpy(), scores.numpy()), abs=1e-12)


def test_logloss_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, generator=generator)
    labels = (torch.rand(200, generator=generator) < 0.5).float()
    expected = log_loss(labels.numpy(), logits.double().sigmoid().numpy())
    assert logloss(logits, labels) == pytest.approx(expected, abs=1e-12)


def naive_grouped_auc(scores, labels, groups):
    total, rows = 0.0, 0
    for group in set(groups.tolist()):
        chosen = groups == group
        if 0 < labels[chosen].sum() < chosen.sum():
            total += int(chosen.sum()) * roc_auc_score(labels[chosen], scores[chosen])
            rows += int(chosen.sum())
    return total / rows if rows else math.nan


@pytest.mark.parametrize("levels", [2, 5, 10**6])
@pytest.mark.parametrize("groups", [1, 7, 150])  # the last: many of one class, some of one row
def test_grouped_auc_is_a_loop_over_scikit_learn(levels, groups):
    generator = torch.Generator().manual_seed(levels + groups)
    scores = torch.randint(0, levels, (400,), generator=generator).float() - levels / 2
    labels = (torch.rand(400, generator=generator) < 0.3).float()
    group = torch.randint(0, groups, (400,), generator=generator) * 1_000_003  # ids with gaps
    expected = naive_grouped_auc(scores.numpy(), labels.numpy(), group.numpy())
    assert grouped_auc(scores, labels, group) == pytest.approx(expected, abs=1e-12)


def test_grouped_auc_by_hand():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.4, 0.8, 0.8, 0.3])
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    groups = torch.tensor([1, 1, 2, 2, 2, 2, 3])
    # Group 1: 1 of 1 pair. Group 2: 0.5 > 0.4, 0.5 < 0.8, 0.8 > 0.4, 0.8 = 0.8: 2.5 of 4. Group 3 has one class.
    assert grouped_auc(scores, labels, groups) == pytest.approx((2 * 1.0 + 4 * 0.625) / 6)
    assert math.isnan(grouped_auc(scores, torch.ones(7), groups))


def test_grouped_auc_of_one_group_is_the_auc():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(500, generator=generator), (torch.rand(500, generator=generator) < 0.5).float()
    assert grouped_auc(scores, labels, torch.full((500,), 7)) == pytest.approx(auc(scores, labels), abs=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_model_gets_nan(bad):
    scores, labels, groups = torch.rand(10), torch.tensor([0.0, 1.0] * 5), torch.zeros(10, dtype=torch.int64)
    scores[3] = bad
    assert math.isnan(auc(scores, labels))
    assert math.isnan(logloss(scores, labels))
    assert math.isnan(grouped_auc(scores, labels, groups))


def test_nothing_scores_nan():
    nothing = torch.empty(0)
    assert math.isnan(auc(nothing, nothing))
    assert math.isnan(logloss(nothing, nothing))
    assert math.isnan(grouped_auc(nothing, nothing, torch.empty(0, dtype=torch.int64)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_scores_of_every_precision(dtype):
    scores = torch.tensor([1.0, 2.0, 2.0, 3.0], dtype=dtype)
    labels = torch.tensor([0, 1, 0, 1])
    assert auc(scores, labels) == pytest.approx(3.5 / 4)
    assert grouped_auc(scores, labels, torch.zeros(4, dtype=torch.int64)) == pytest.approx(3.5 / 4)
    assert auc(scores.requires_grad_(), labels > 0) == pytest.approx(3.5 / 4)


def test_auc_takes_order_where_float32_has_none():
    scores = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert auc(scores, torch.tensor([0.0, 1.0])) == 1.0


def test_a_million_rows_take_no_time():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1_000_000, generator=generator)
    labels = (torch.rand(1_000_000, generator=generator) < 0.25).float()
    groups = torch.randint(0, 6000, (1_000_000,), generator=generator)
    start = time.perf_counter()
    whole, by_group = auc(scores, labels), grouped_auc(scores, labels, groups)
    assert time.perf_counter() - start < 20  # a loop over rows would take minutes
    assert [whole, by_group] == pytest.approx([0.5, 0.5], abs=0.01)
