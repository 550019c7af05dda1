"""The parts of a training recipe beside the network: Lookahead, rates by example, the triangle, several views."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trilab.data.vision.spec import ImageSpec
from trilab.errors import ConfigError
from trilab.models.vision.airbench import Airbench
from trilab.models.vision.checks import check_classifier
from trilab.models.vision.decoupled_sgd import DecoupledSGD
from trilab.models.vision.lookahead import Lookahead
from trilab.models.vision.tta import mean_logits

SPEC = ImageSpec(channels=3, height=10, width=12, classes=4)


# Lookahead


def test_lookahead_is_the_naive_loop() -> None:
    """Slow and fast weights as Python numbers, at each of 12 steps."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    lookahead, steps = Lookahead(every=3, decay=0.9, power=2.0), 12
    lookahead.start(layer)
    slow = fast = 1.0
    for step in range(1, steps + 1):
        fast += 0.1 * step
        layer.weight.data += 0.1 * step
        if step % 3 == 0:
            share = 0.9**3 * (step / steps) ** 2
            fast = slow = share * slow + (1 - share) * fast
        if lookahead.due(step):
            lookahead.update(step / steps)
        assert layer.weight.item() == pytest.approx(fast, rel=1e-5)
        assert lookahead.slow()["weight"].item() == pytest.approx(slow, rel=1e-5)
        assert lookahead.fast()["weight"].item() == pytest.approx(fast, rel=1e-5)


def test_running_statistics_take_part_and_counters_do_not() -> None:
    norm = nn.BatchNorm2d(2)
    lookahead = Lookahead(every=1, decay=0.5, power=0.0)
    lookahead.start(norm)
    assert norm.running_mean is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean += 4.0
    norm.num_batches_tracked += 1
    lookahead.update(1.0)
    assert norm.running_mean.tolist() == [2.0, 2.0]  # half of 0 and half of 4
    assert norm.num_batches_tracked.item() == 1


def test_slow_weights_are_shown_and_taken_away() -> None:
    layer = nn.Linear(2, 1)
    lookahead = Lookahead()
    lookahead.start(layer)
    slow = layer.weight.detach().clone()
    layer.weight.data += 1.0
    lookahead.show(slow=True)
    lookahead.show(slow=True)  # twice is once
    assert torch.equal(layer.weight, slow)
    assert torch.equal(lookahead.slow()["weight"], slow)
    assert torch.equal(lookahead.fast()["weight"], slow + 1.0)
    lookahead.show(slow=False)
    assert torch.equal(layer.weight, slow + 1.0)
    assert torch.equal(lookahead.slow()["weight"], slow)
    assert torch.equal(lookahead.fast()["weight"], slow + 1.0)
    lookahead.stop()
    assert torch.equal(layer.weight, slow)
    assert not lookahead.started


# Rates by example


def test_rates_are_those_of_the_published_script() -> None:
    """airbench94.py: SGD on the *sum* of a batch's losses, lr = 11.5 / k, decay = 0.0153 B / k, k = 1024 (1 + 1/0.15).

    A sum's gradient is B times a mean's, so that our rate is B times theirs and our decay by step is theirs.
    """
    network = Airbench(SPEC)
    optimizer = DecoupledSGD(network.parameters(), batch_size=512, fused=False)
    optimizer.bind(network)
    kilostep = 1024 * (1 + 1 / (1 - 0.85))
    lr, decay = 11.5 / kilostep, 0.0153 * 512 / kilostep
    rest, biases = optimizer.param_groups
    assert rest["lr"] == pytest.approx(512 * lr)
    assert biases["lr"] == pytest.approx(64 * 512 * lr)
    for group in (rest, biases):
        assert group["lr"] * group["weight_decay"] == pytest.approx(decay)
        assert (group["momentum"], group["nesterov"]) == (0.85, True)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [id(p) for p in biases["params"]] == [id(norm.bias) for norm in norms]
    trained = {id(p) for p in network.parameters() if p.requires_grad}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == trained


def test_a_step_on_the_mean_is_the_scripts_on_the_sum() -> None:
    def run(ours: bool) -> Tensor:
        torch.manual_seed(0)
        layer, norm, inputs = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), torch.randn(8, 3)
        network = nn.Sequential(layer, norm)
        scale = 256 / 8  # a rate of 8 examples that moves something
        if ours:
            optimizer: torch.optim.Optimizer = DecoupledSGD(network.parameters(), lr=11.5 * scale, batch_size=8)
            optimizer.bind(network)
        else:
            kilostep = 1024 * (1 + 1 / 0.15)
            lr, decay = 11.5 * scale / kilostep, 0.0153 * 8 / kilostep
            groups = [
                {"params": [layer.weight, norm.weight], "lr": lr, "weight_decay": decay / lr},
                {"params": [norm.bias], "lr": 64 * lr, "weight_decay": decay / (64 * lr)},
            ]
            optimizer = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
        for _ in range(4):
            losses = (network(inputs) - inputs.sum(1, keepdim=True)).square().sum(1)
            optimizer.zero_grad()
            (losses.mean() if ours else losses.sum()).backward()
            optimizer.step()
        return torch.cat([layer.weight.flatten(), norm.bias]).detach()

    torch.testing.assert_close(run(ours=True), run(ours=False), rtol=1e-4, atol=1e-5)


def test_a_network_without_batchnorm_has_one_group() -> None:
    network = nn.Linear(2, 2)
    optimizer = DecoupledSGD(network.parameters())
    optimizer.bind(network)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


# Several views


def view(image: np.ndarray, mirrored: bool, shift: int) -> np.ndarray:
    """One image, (channels, height, width), pixel by pixel; what is outside is reflected without the border itself."""
    height, width = image.shape[1:]
    out = np.empty_like(image)
    for y in range(height):
        for x in range(width):
            row, column = y + shift, (width - 1 - x if mirrored else x) + shift
            row = -row if row < 0 else 2 * (height - 1) - row if row >= height else row
            column = -column if column < 0 else 2 * (width - 1) - column if column >= width else column
            out[:, y, x] = image[:, row, column]
    return out


@pytest.mark.parametrize(
    ("level", "weights"),
    [
        (0, {(False, 0): 1.0}),
        (1, {(False, 0): 0.5, (True, 0): 0.5}),
        (2, {(m, s): 0.25 if s == 0 else 0.125 for m in (False, True) for s in (-1, 0, 1)}),
    ],
)
def test_views_by_hand(level: Literal[0, 1, 2], weights: dict[tuple[bool, int], float]) -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 3, 5, 6)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))  # sees places
    with torch.no_grad():
        expected = torch.stack(
            [
                sum(
                    weight * network(torch.from_numpy(view(image.numpy(), mirrored, shift))[None])[0]
                    for (mirrored, shift), weight in weights.items()
                )  # type: ignore[misc]
                for image in images
            ]
        )
        torch.testing.assert_close(mean_logits(network, images, level), expected)


def test_views_are_averaged_in_fp32() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).to(torch.bfloat16)
    images = torch.randn(2, 3, 2, 2, dtype=torch.bfloat16)
    with torch.no_grad():
        assert all(mean_logits(network, images, level).dtype is torch.float32 for level in (0, 1))
        mean = (network(images).double() + network(images.flip(-1)).double()) / 2
        torch.testing.assert_close(mean_logits(network, images, 1).double(), mean, rtol=1e-6, atol=0)


# What goes together, before torch is imported


def test_a_network_that_cannot_be_built_is_a_clear_error() -> None:
    node = {"_target_": "trilab.models.vision.mlp.MLP", "_partial_": True}
    check_classifier({"network": node})
    with pytest.raises(ConfigError, match=r"model\.network=null: expected a network to build"):
        check_classifier({"network": None})
    with pytest.raises(ConfigError, match=r"model\.network\._partial_: expected true"):
        check_classifier({"network": {**node, "_partial_": False}})
    with pytest.raises(ConfigError, match=r"model\.lookahead=true: expected null, or .*model=vision/airbench"):
        check_classifier({"network": node, "lookahead": True})
