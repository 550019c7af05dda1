"""Metrics of click prediction, exact over a whole set.

Scores may be logits, for only their order counts in an area under a curve. Whatever the device, they are brought to the
processor's memory. A score that is not finite is no prediction: each metric is then NaN.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[Any]


def auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs that the scores put in the right order.

    The Mann-Whitney statistic, a tie counting half (Hanley & McNeil 1982,
    https://doi.org/10.1148/radiology.143.1.7063747):  AUC = sum_{p, n} ([s_p > s_n] + [s_p = s_n] / 2) / (P N).
    Exact up to the last division. NaN where all labels are equal, or a score is not finite.

    O(n log n): only values are sorted, and no order is asked for.

    Args:
        scores: (n,), higher for more likely positive.
        labels: (n,) of 0 and 1.
    """
    values, positive = _plain(scores), _plain(labels) > 0.5
    negatives, positives = np.sort(values[~positive]), np.sort(values[positive])
    if not len(negatives) or not len(positives) or not np.isfinite(values).all():
        return float("nan")
    return _twice_wins(positives, negatives).sum().item() / (2 * len(positives) * len(negatives))


def grouped_auc(scores: Tensor, labels: Tensor, groups: Tensor) -> float:
    """Mean of the groups' AUCs, each weighted by its rows: how well rows are ordered within a user, say.

    GAUC = sum_g rows_g AUC_g / sum_g rows_g (Zhu et al. 2017, https://arxiv.org/abs/1703.02091; the weighted AUC by
    impressions of Zhou et al. 2018, https://arxiv.org/abs/1706.06978). Groups whose labels are all equal have no AUC,
    and are left out of both sums. NaN where that leaves none, or a score is not finite.

    Args:
        scores: (n,), higher for more likely positive.
        labels: (n,) of 0 and 1.
        groups: (n,) integers; rows with the same one are a group.
    """
    values, positive = _plain(scores), _plain(labels) > 0.5
    if not len(values) or not np.isfinite(values).all():
        return float("nan")
    levels, level = np.unique(values, return_inverse=True)
    _, group = np.unique(_plain(groups), return_inverse=True)
    # A row's place among all groups' rows: those of earlier groups lie below all of its own.
    place = group.astype(np.int64) * len(levels) + level
    rows, wanted = np.bincount(group), np.bincount(group[positive], minlength=int(group.max()) + 1)
    unwanted = rows - wanted
    positives, negatives = np.sort(place[positive]), np.sort(place[~positive])
    twice = _twice_wins(positives, negatives)
    both = np.bincount(positives // len(levels), weights=twice, minlength=len(rows))  # exact below 2^53
    below = np.cumsum(unwanted) - unwanted  # negatives of earlier groups, which every positive has won against
    proper = (wanted > 0) & (unwanted > 0)
    if not proper.any():
        return float("nan")
    pairs = (wanted * unwanted)[proper]
    areas = (both - 2 * below * wanted)[proper] / (2 * pairs)
    return float(np.average(areas, weights=rows[proper]))


def logloss(logits: Tensor, labels: Tensor) -> float:
    """Mean binary cross-entropy in nats, in float64: (n,) logits against (n,) labels of 0 and 1."""
    if not logits.isfinite().all():
        return float("nan")
    return float(F.binary_cross_entropy_with_logits(logits.cpu().double(), labels.cpu().double()))


def _twice_wins(positives: Array, negatives: Array) -> NDArray[np.int64]:
    """Twice the negatives below each positive, plus those equal to it; both sorted."""
    return np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")


def _plain(tensor: Tensor) -> Array:
    if tensor.dtype in (torch.float16, torch.bfloat16):  # no dtype of numpy's, or a slow one
        tensor = tensor.float()
    return tensor.detach().cpu().numpy()
