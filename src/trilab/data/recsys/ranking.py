"""Metrics of ranked candidates, user by user, with ties treated exactly.

A user's candidates are ranked by falling score. **Equal scores stand in a random order, and each metric is its
expectation over those orders**: a model that scores all alike then gets HR@K = K / candidates, and not the 0 or 1 that
the order of the data, or of a sort, would give it.

Where g candidates score more than a relevant one, and t as much (itself included), its rank is uniform on g + 1 ... g +
t. With r the ranks of the relevant candidates, from 1, and R their number:

    HR@K     = [min r <= K]                                    recall@K = |{r <= K}| / R
    NDCG@K   = sum_{r <= K} 1 / log2(r + 1)  /  sum_{i=1}^{min(R, K)} 1 / log2(i + 1)
    MRR      = 1 / min r

(He et al. 2017, https://arxiv.org/abs/1708.05031, for one relevant candidate; NDCG with binary gains after Järvelin &
Kekäläinen 2002, https://doi.org/10.1145/582415.582418.) Recall and NDCG are sums over the relevant candidates, so their
expectations need each one's own rank alone: differences of running sums of 1 and of 1 / log2(i + 1). HR and MRR depend
on the first of them. Where m of the t that share the best relevant score are relevant,

    P(first is j-th of the t) = C(t - j, m - 1) / C(t, m),      P(none among s of the t) = C(t - m, s) / C(t, s).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Places:
    """Where the relevant candidates stand, the best first; float64 but for `wanted`."""

    above: Tensor  # (users, relevant), g
    tied: Tensor  # (users, relevant), t
    wanted: Tensor  # (users, relevant), bool: False fills up for users with fewer than others
    alike: Tensor  # (users,), m


def ranking_metrics(scores: Tensor, labels: Tensor, cutoffs: Sequence[int]) -> dict[str, Tensor]:
    """`hit_rate_K`, `ndcg_K` and `recall_K` for each K, and `mrr`: each (users,) float64, on the scores' device.

    MPS has no float64, and gets them on the CPU. NaN where one of the user's scores is not finite, or no candidate is
    relevant.

    Args:
        scores: (users, candidates), higher for better.
        labels: (users, candidates) int8: 1 relevant, 0 not, -1 takes no part.
        cutoffs: each K.
    """
    valid, relevant = labels >= 0, labels > 0
    count = relevant.sum(1)
    proper = (count > 0) & (scores.isfinite() | ~valid).all(1)
    scores = scores.detach().masked_fill(~valid, -torch.inf)  # below all others
    scores = scores.masked_fill(~proper[:, None], 0)  # NaN has no place; these users' metrics are dropped below
    most = int(count.max()) if len(count) else 0
    above, tied, wanted, alike = _one(scores, relevant) if most <= 1 else _several(scores, relevant, most)
    above, tied = above.masked_fill(~wanted, 0), tied.masked_fill(~wanted, 1)  # of what is not there, any in range
    host = scores.device if scores.device.type != "mps" else torch.device("cpu")
    places = _Places(above.to(host).double(), tied.to(host).double(), wanted.to(host), alike.to(host).double())
    count, proper = count.to(host), proper.to(host)

    ranks = torch.arange(1, scores.shape[1] + 1, dtype=torch.float64, device=host)
    discounts = _running(1 / torch.log2(ranks + 1))  # (candidates + 1,)
    metrics: dict[str, Tensor] = {}
    for cutoff in cutoffs:
        metrics[f"hit_rate_{cutoff}"] = _hit_rate(places, cutoff)
        ideal = discounts[count.clamp(max=cutoff)]
        metrics[f"ndcg_{cutoff}"] = _expected_sum(places, discounts, cutoff) / ideal
        metrics[f"recall_{cutoff}"] = _expected_sum(places, _running(torch.ones_like(ranks)), cutoff) / count
    metrics["mrr"] = _mrr(places, _running(1 / ranks))
    return {name: value.masked_fill(~proper, torch.nan) for name, value in metrics.items()}


# Places


def _one(scores: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By comparing with the one relevant candidate: no sort."""
    own = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)  # (users, 1)
    above = (scores > own).sum(1, keepdim=True)
    tied = (scores == own).sum(1, keepdim=True)
    return above, tied, relevant.any(1, keepdim=True), tied.new_ones(len(tied))


def _several(scores: Tensor, relevant: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By search in the sorted scores, `most` being the largest number of relevant candidates."""
    own = scores.masked_fill(~relevant, -torch.inf).topk(most, 1).values  # (users, most), falling
    wanted = torch.arange(most, device=scores.device) < relevant.sum(1, keepdim=True)
    ascending = scores.sort(1).values
    upper = torch.searchsorted(ascending, own, right=True)
    tied = upper - torch.searchsorted(ascending, own)
    alike = ((own == own[:, :1]) & wanted).sum(1).clamp(min=1)
    return scores.shape[1] - upper, tied, wanted, alike


# Expectations


def _running(values: Tensor) -> Tensor:
    """(n,) to (n + 1,): the sum of the first i values at i."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])


def _mean_over_ranks(above: Tensor, tied: Tensor, sums: Tensor) -> Tensor:
    """Mean over the ranks above + 1 ... above + tied of what `sums` are the running sums of."""
    return (sums[(above + tied).long()] - sums[above.long()]) / tied


def _expected_sum(places: _Places, sums: Tensor, cutoff: int) -> Tensor:
    """Expected sum over a user's relevant candidates of a value at their rank, 0 beyond the cutoff: (users,)."""
    capped = sums[torch.arange(len(sums), device=sums.device).clamp(max=cutoff)]
    return (_mean_over_ranks(places.above, places.tied, capped) * places.wanted).sum(1)


def _hit_rate(places: _Places, cutoff: int) -> Tensor:
    above, tied, alike = places.above[:, 0], places.tied[:, 0], places.alike
    slots = torch.minimum((cutoff - above).clamp(min=0), tied)  # of the tied, how many come within the cutoff
    alone = slots / tied
    if places.wanted.shape[1] == 1:
        return alone
    none = (_log_choose(tied - alike, slots) - _log_choose(tied, slots)).exp()
    return torch.where(alike == 1, alone, 1 - none.masked_fill(slots > tied - alike, 0))


def _mrr(places: _Places, harmonic: Tensor) -> Tensor:
    above, tied, alike = places.above[:, 0], places.tied[:, 0], places.alike
    mrr = _mean_over_ranks(above, tied, harmonic)
    if places.wanted.shape[1] == 1:
        return mrr
    shared = (alike > 1).nonzero().squeeze(1)  # users whose best relevant candidates tie with one another
    if len(shared):
        above, tied, alike = (column[shared, None] for column in (above, tied, alike))  # (shared, 1)
        position = torch.arange(1, int(tied.max()) + 1, dtype=torch.float64, device=tied.device)
        possible = position <= tied - alike + 1
        chance = (_log_choose((tied - position).clamp(min=0), alike - 1) - _log_choose(tied, alike)).exp()
        mrr[shared] = (chance / (above + position)).masked_fill(~possible, 0).sum(1)
    return mrr


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    """log C(n, k), for 0 <= k <= n; any number elsewhere."""
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma((n - k).clamp(min=0) + 1)
