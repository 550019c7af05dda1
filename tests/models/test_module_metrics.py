"""Training metrics of a window, against means taken in Python."""

from functools import partial

import pytest
import torch

from trilab.models.module import Module
from trilab.models.schedules import Constant


def module() -> Module:
    return Module(partial(torch.optim.SGD, lr=0.1), Constant())


def test_means_and_counts_are_weighted_by_their_samples() -> None:
    model = module()
    model.observe(2, {"accuracy": torch.tensor(1)}, loss=torch.tensor(3.0, requires_grad=True))
    model.observe(6, {"accuracy": torch.tensor(6)}, loss=torch.tensor(1.0))
    assert model._close_window() == {"train/loss": (2 * 3 + 6 * 1) / 8, "train/accuracy": 7 / 8}
    assert model._close_window() == {}  # the next window is empty
    assert model.work_done == 8
    model.observe(1, loss=torch.tensor(5.0))
    assert model._close_window() == {"train/loss": 5.0}


def test_a_window_of_any_length_and_of_agents() -> None:
    model, generator = module(), torch.Generator().manual_seed(0)
    values, weights = torch.rand(1000, 3, generator=generator), torch.randint(1, 9, (1000,), generator=generator)
    for value, weight in zip(values, weights.tolist(), strict=True):
        model.observe(weight, loss=value, shared=value[0])
    assert sum(len(waiting) for waiting, _ in model._waiting.values()) < 600  # they do not pile up
    means = (values.double() * weights[:, None]).sum(0) / weights.sum()
    window = model._close_window()
    assert window["train/loss"] == pytest.approx(means.tolist(), rel=1e-5)
    assert window["train/shared"] == pytest.approx(means[0].item(), rel=1e-5)


def test_half_precision_is_added_up_in_single() -> None:
    model = module()
    for _ in range(300):
        model.observe(100, {"accuracy": torch.tensor(99)}, loss=torch.tensor(1.0, dtype=torch.bfloat16))
    assert model._close_window() == pytest.approx({"train/loss": 1.0, "train/accuracy": 0.99})


def test_attributes_are_still_those_of_a_module() -> None:
    model = module()
    model.layer = torch.nn.Linear(2, 2)
    model.work_done += 5
    model._current_fx_name = "training_step"
    assert dict(model.named_modules()).keys() == {"", "layer"}
    assert (model.work_done, model._current_fx_name) == (5, "training_step")
