"""Metrics of click prediction, exact over a whole set."""

import torch
from torch import Tensor
from torch.nn import functional as F


def auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs that the scores put in the right order.

    From the sum R of the positives' ranks, ties sharing their mean rank (Mann & Whitney 1947; Hanley & McNeil 1982,
    https://doi.org/10.1148/radiology.143.1.7063747):  AUC = (R - P (P + 1) / 2) / (P N).
    O(n log n), in float64. Scores may be logits: only their order counts. NaN where all labels are equal.

    Args:
        scores: (n,), higher for more likely positive.
        labels: (n,) of 0 and 1.
    """
    _, group, sizes = torch.unique(scores, return_inverse=True, return_counts=True)  # ascending
    last_rank = sizes.cumsum(0).double()  # (groups,), ranks from 1
    mean_rank = last_rank - (sizes - 1).double() / 2
    positive = labels > 0.5
    positives = int(positive.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    rank_sum = float(mean_rank[group[positive]].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def logloss(logits: Tensor, labels: Tensor) -> float:
    """Mean binary cross-entropy in nats, in float64: (n,) logits against (n,) labels of 0 and 1."""
    return float(F.binary_cross_entropy_with_logits(logits.double(), labels.double()))
