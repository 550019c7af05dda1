from itertools import pairwise, permutations
from math import isnan, log, nan

import pytest
import torch
from sklearn.metrics import ndcg_score

from trilab.data.recsys.ranking import ranking_metrics

CUTOFFS = (1, 2, 3, 5)


def by_every_order(scores: list[float], labels: list[int], cutoffs) -> dict[str, float]:
    """The mean over every order of the candidates that their scores allow."""
    pairs = [(s, y) for s, y in zip(scores, labels, strict=True) if y >= 0]
    orders = [o for o in permutations(pairs) if all(a[0] >= b[0] for a, b in pairwise(o))]
    total: dict[str, float] = {}
    for order in orders:
        ranks = [place for place, (_, label) in enumerate(order, 1) if label == 1]
        values = {"mrr": 1 / min(ranks)}
        for k in cutoffs:
            ideal = sum(log(2) / log(i + 1) for i in range(1, min(len(ranks), k) + 1))
            values[f"hit_rate_{k}"] = float(min(ranks) <= k)
            values[f"recall_{k}"] = sum(r <= k for r in ranks) / len(ranks)
            values[f"ndcg_{k}"] = sum(log(2) / log(r + 1) for r in ranks if r <= k) / ideal
        for name, value in values.items():
            total[name] = total.get(name, 0.0) + value / len(orders)
    return total


@pytest.mark.parametrize("most", [1, 3])  # relevant candidates of a user
@pytest.mark.parametrize("levels", [1, 2, 3, 100])
def test_metrics_are_means_over_every_order_of_ties(levels, most):
    generator = torch.Generator().manual_seed(10 * levels + most)
    users, candidates = 12, 7
    scores = torch.randint(0, levels, (users, candidates), generator=generator).float()
    labels = torch.zeros(users, candidates, dtype=torch.int8)
    for user in range(users):
        order = torch.randperm(candidates, generator=generator)
        labels[user, order[: 1 + user % most]] = 1
        labels[user, order[most : most + user % 3]] = -1
    found = ranking_metrics(scores, labels, CUTOFFS)
    for user in range(users):
        expected = by_every_order(scores[user].tolist(), labels[user].tolist(), CUTOFFS)
        assert {name: value[user].item() for name, value in found.items()} == pytest.approx(expected, abs=1e-12)
    assert all(value.dtype == torch.float64 for value in found.values())


@pytest.mark.parametrize("most", [1, 20])
def test_ndcg_without_ties_is_scikit_learns(most):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(50, 100, generator=generator, dtype=torch.float64)
    labels = torch.zeros(50, 100, dtype=torch.int8)
    for user in range(50):
        labels[user, torch.randperm(100, generator=generator)[: 1 + user % most]] = 1
    found = ranking_metrics(scores, labels, [5, 10])
    for k in (5, 10):
        expected = ndcg_score(labels.numpy(), scores.numpy(), k=k)
        assert found[f"ndcg_{k}"].mean().item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("place", range(12))
def test_one_relevant_candidate_without_ties_scores_as_in_the_ncf_paper(place):
    scores = torch.arange(12.0).flip(0)[None]
    labels = torch.zeros(1, 12, dtype=torch.int8)
    labels[0, place] = 1
    found = {name: value.item() for name, value in ranking_metrics(scores, labels, [10]).items()}
    assert found["hit_rate_10"] == (1.0 if place < 10 else 0.0)
    assert found["recall_10"] == found["hit_rate_10"]
    assert found["ndcg_10"] == pytest.approx(log(2) / log(place + 2) if place < 10 else 0.0, abs=1e-15)
    assert found["mrr"] == pytest.approx(1 / (place + 1))


def test_a_constant_model_gets_what_chance_gives():
    labels = torch.zeros(3, 100, dtype=torch.int8)
    labels[:, 0] = 1
    found = ranking_metrics(torch.zeros(3, 100), labels, [10])
    assert found["hit_rate_10"].tolist() == pytest.approx([0.1] * 3)
    assert found["mrr"][0].item() == pytest.approx(sum(1 / rank for rank in range(1, 101)) / 100)
    labels[:, 1] = 1  # two relevant: none of both in the ten with (90 * 89) / (100 * 99)
    found = ranking_metrics(torch.zeros(3, 100), labels, [10])
    assert found["hit_rate_10"].tolist() == pytest.approx([1 - 90 * 89 / (100 * 99)] * 3, abs=1e-12)
    assert found["recall_10"].tolist() == pytest.approx([0.1] * 3)
    first = {j: 2 * (100 - j) / (100 * 99) for j in range(1, 100)}  # pairs of places whose first is j
    assert found["mrr"][0].item() == pytest.approx(sum(chance / j for j, chance in first.items()), abs=1e-12)


@pytest.mark.parametrize("relevant", [1, 2])
def test_a_score_that_is_no_number_makes_its_user_nan_and_no_other(relevant):
    scores = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(5, 8, dtype=torch.int8)
    labels[:, :relevant] = 1
    labels[3, 7] = -1
    scores[0, 0], scores[1, 5], scores[2, 6], scores[3, 7] = nan, nan, torch.inf, nan  # the last takes no part
    for value in ranking_metrics(scores, labels, [3]).values():
        assert [isnan(x) for x in value.tolist()] == [True, True, True, False, False]


def test_users_without_anything_relevant_are_nan():
    labels = torch.tensor([[1, 0, 0], [0, 0, 0], [-1, -1, -1]], dtype=torch.int8)
    for value in ranking_metrics(torch.rand(3, 3), labels, [2]).values():
        assert [isnan(x) for x in value.tolist()] == [False, True, True]


def test_no_users_and_cutoffs_beyond_the_candidates():
    none = ranking_metrics(torch.empty(0, 5), torch.empty(0, 5, dtype=torch.int8), [10])
    assert {name: tuple(value.shape) for name, value in none.items()} == {
        "hit_rate_10": (0,), "ndcg_10": (0,), "recall_10": (0,), "mrr": (0,)
    }  # fmt: skip
    found = ranking_metrics(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1, 0, 1]], dtype=torch.int8), [10])
    assert [found[name].item() for name in ("hit_rate_10", "recall_10", "mrr")] == [1.0, 1.0, 1.0]
    assert found["ndcg_10"].item() == pytest.approx((1 + log(2) / log(4)) / (1 + log(2) / log(3)))


def test_many_relevant_among_many_ties_stay_exact():
    """Scores of few levels, as a model in bfloat16 has them, against a simulation of the random orders."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 20, (1, 2000), generator=generator).float()
    labels = (torch.rand(1, 2000, generator=generator) < 0.02).to(torch.int8)
    found = ranking_metrics(scores, labels, [10])
    draws = scores.double() + torch.rand(4000, 2000, generator=generator, dtype=torch.float64) * 0.5
    simulated = ranking_metrics(draws, labels.expand(4000, -1), [10])
    for name, value in found.items():
        noise = simulated[name].std().item() / 4000**0.5
        assert abs(value.item() - simulated[name].mean().item()) < 4 * noise, name


def test_chunks_give_what_the_whole_gives_and_nothing_is_changed():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(0, 30, (20, 60), generator=generator).float()
    labels = torch.randint(-1, 2, (20, 60), generator=generator, dtype=torch.int8)
    before = scores.clone()
    whole = ranking_metrics(scores, labels, [5])
    for name, value in whole.items():
        parts = [ranking_metrics(scores[i : i + 6], labels[i : i + 6], [5])[name] for i in range(0, 20, 6)]
        assert torch.equal(torch.cat(parts), value)
    assert torch.equal(scores, before)
