"""What autograd keeps, against bytes counted by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trilab.numerics.activation_memory import Kept, examples, kept
from trilab.numerics.saved_tensors import Part, SavedTensors

FLOAT = Part("activation", torch.float32)


def test_what_several_layers_keep_counts_once() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    inputs = torch.randn(7, 6)
    with SavedTensors(network.parameters()) as counter:
        output = network(inputs)
    # The inputs, and ReLU's output, which the next layer keeps too. Neither the weights nor what ReLU took.
    assert counter.peak == {FLOAT: 4 * (7 * 6 + 7 * 5)}
    output.sum().backward()


def test_integers_and_a_stretch_of_a_storage() -> None:
    scores = torch.randn(4, 1, 8, 8, requires_grad=True)
    with SavedTensors([]) as counter:
        F.max_pool2d(scores, 2)
    assert counter.peak == {FLOAT: 4 * 4 * 64, Part("activation", torch.int64): 8 * 4 * 16}
    whole = torch.randn(1000, 10)
    weight = torch.randn(10, requires_grad=True)
    with SavedTensors([weight]) as counter:
        _ = whole[100:110] * weight
    assert counter.peak == {FLOAT: 4 * 100}  # ten rows of a thousand


def test_weights_that_autocast_casts_are_told_apart() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3, bias=False))
    with SavedTensors(network.parameters()) as counter, torch.autocast("cpu", torch.bfloat16):
        _ = network(torch.randn(7, 6))
    # The first layer's cast is not needed: its inputs want no gradient.
    expected = {
        Part("activation", torch.bfloat16): 2 * (7 * 6 + 7 * 5),
        Part("weight copy", torch.bfloat16): 2 * 5 * 3,
    }
    assert counter.peak == expected


def test_the_peak_is_of_what_is_kept_at_once() -> None:
    weight = torch.randn(100, requires_grad=True)
    with SavedTensors([weight]) as counter:
        for size in (1, 3, 2):
            (torch.ones(size, 100) * weight).sum().backward()
    assert counter.peak == {FLOAT: 4 * 300}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_gradients_are_the_same_with_and_without(dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)
    )
    inputs = torch.randn(5, 1, 8, 8)

    def grads() -> list[torch.Tensor]:
        network.zero_grad()
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = network(inputs).float().square().mean()
        loss.backward()
        return [own.grad.clone() for own in network.parameters() if own.grad is not None]

    plain = grads()
    with SavedTensors(network.parameters()):
        counted = grads()
    assert all(torch.equal(first, second) for first, second in zip(plain, counted, strict=True))


def test_float_activations_halve_and_the_rest_does_not() -> None:
    networks = examples(16)
    mlp, cnn, recommender = (
        [kept(*networks[name], dtype) for dtype in (None, torch.bfloat16, torch.float16)]
        for name in ("mlp", "mnist_cnn", "deepfm")
    )
    assert mlp[0] == Kept(4 * 16 * (784 + 1024 + 1024), 0, 0)
    assert mlp[1] == mlp[2] == Kept(2 * 16 * (784 + 1024 + 1024), 0, 2 * 1024 * (1024 + 10))
    # conv32-pool-conv64-pool: what pooling takes, and where its maxima were.
    pooled = 32 * 13 * 13 + 64 * 5 * 5
    assert cnn[0].integers == cnn[1].integers == 8 * 16 * pooled
    assert cnn[0].floats == 4 * 16 * (784 + 32 * 26 * 26 + 64 * 11 * 11 + pooled + 64)
    assert cnn[1].floats == cnn[0].floats // 2
    assert 0.5 < cnn[1].total / cnn[0].total < 1
    assert recommender[0].integers == recommender[1].integers == 8 * 16 * 8  # the ids
    assert recommender[1].floats > recommender[0].floats / 2  # embeddings stay in fp32
