import math

import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from trilab.data.recsys.metrics import auc, logloss


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
