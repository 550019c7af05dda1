"""The claims of Micikevicius et al. 2018 against hand-computed numbers and NumPy's float16."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trilab.numerics.loss_scaling import scripted, trained
from trilab.numerics.small_updates import repeated_update, smallest_power_kept, survives
from trilab.numerics.underflow import HIGHEST, LOWEST, cast_shares, exponents, gradients

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


# Small updates


def test_16_bit_weights_lose_a_thousand_updates_and_a_master_copy_keeps_them() -> None:
    assert set(repeated_update(1.0, -1e-4, 1000, HALF, HALF).tolist()) == {1.0}
    assert set(repeated_update(1.0, -1e-4, 1000, BRAIN, BRAIN).tolist()) == {1.0}
    kept = repeated_update(1.0, -1e-4, 1000, HALF, SINGLE)
    assert len(kept) == 1001
    # The update itself is rounded once, to 1.00016594e-4; the sum is then that of fp32.
    assert kept[-1] == pytest.approx(1 - 1000 * float(np.float16(1e-4)), abs=1e-6)
    assert kept[-1] == pytest.approx(0.9, abs=3e-5)


def test_float16_adds_as_numpys_does() -> None:
    weight = np.float16(0.3)
    for _ in range(50):
        weight = weight + np.float16(1.7e-3)
    assert repeated_update(0.3, 1.7e-3, 50, HALF, HALF)[-1] == float(weight)


@pytest.mark.parametrize(("dtype", "above", "below"), [(HALF, -10, -11), (BRAIN, -7, -8), (SINGLE, -23, -24)])
def test_half_a_step_is_a_tie_and_goes_to_the_even_weight(dtype: torch.dtype, above: int, below: int) -> None:
    # 1 + 2^-11 lies in the middle of 1 and 1 + 2^-10 and becomes 1; below 1 all is half as large.
    assert smallest_power_kept(1.0, dtype) == above
    assert smallest_power_kept(1.0, dtype, -1.0) == below
    just_over_half = 2.0 ** (above - 1) * (1 + torch.finfo(dtype).eps)
    assert survives(1.0, [2.0 ** (above - 1), just_over_half], dtype).tolist() == [False, True]


# Underflow


def test_the_border_of_float16_is_half_of_its_smallest_number() -> None:
    values = torch.tensor([2.0**-24, 1.5 * 2.0**-25, 2.0**-25, 2.0**-26, 0.0])
    assert cast_shares(values, 1.0, HALF) == (0.5, 0.0)  # of the four that are not zero
    assert (values.numpy().astype(np.float16) != 0).tolist() == [True, True, False, False, False]
    assert cast_shares(values, 1.0, BRAIN) == (0.0, 0.0)


def test_a_scale_of_8_rescues_the_range_of_the_paper() -> None:
    rescued = torch.logspace(-27, -24, 200, base=2.0)[:-1]
    assert cast_shares(rescued, 8.0, HALF)[0] == 0.0
    assert cast_shares(rescued[rescued <= 2.0**-25], 1.0, HALF)[0] == 1.0
    assert cast_shares(torch.tensor([2.0**-28]), 8.0, HALF)[0] == 1.0
    assert cast_shares(torch.tensor([8192.0, 65504.0 / 8]), 8.0, HALF) == (0.0, 0.5)  # the largest is 65504


def test_exponents_are_counted_by_powers_of_two() -> None:
    shares = exponents(torch.tensor([1.0, 1.999, -2.0, 2.0**-30, 0.0, 1e-30, 1e30]))
    by_exponent = {LOWEST + place: float(share) for place, share in enumerate(shares) if share}
    assert by_exponent == pytest.approx({0: 2 / 6, 1: 1 / 6, -30: 1 / 6, LOWEST: 1 / 6, HIGHEST: 1 / 6})


def test_gradients_are_those_of_every_layers_output() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    inputs, labels = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    activations, weights = gradients(network, [inputs], lambda logits: F.cross_entropy(logits, labels))
    probabilities = network(inputs).softmax(1)
    d_logits = (probabilities - F.one_hot(labels, 2)) / 5
    assert activations.numel() == 5 * 4 + 5 * 2  # in place: the first layer's output and ReLU's are one
    assert torch.allclose(activations[-10:], d_logits.flatten(), atol=1e-6)
    assert weights.numel() == sum(own.numel() for own in network.parameters())


# Loss scaling


def test_a_scale_halves_at_overflow_and_doubles_after_2000_good_steps() -> None:
    trace = scripted({3, 4}, 2100, init_scale=1024.0)
    expected = [1024.0] * 4 + [512.0] + [256.0] * 2000 + [512.0] * (2101 - 2005)
    assert trace.scales == expected
    assert trace.skipped == [3, 4]
    # Steps of 1 with a gradient of 1, of which two were left out.
    assert trace.weights[2:6] == [-3.0, -3.0, -3.0, -4.0]
    assert trace.weights[-1] == -2098.0


def test_an_overflow_starts_the_count_of_good_steps_anew() -> None:
    assert scripted({1999}, 4000, init_scale=4.0).scales[-1] == 4.0  # halved at 1999, doubled after 3999
    assert scripted({1999}, 3999, init_scale=4.0).scales[-1] == 2.0


def test_a_scale_that_is_too_large_comes_down_in_a_real_training() -> None:
    trace = trained(200, 2.0**28)
    assert trace.skipped[:5] == [0, 1, 2, 3, 4]
    assert trace.scales[5] == 2.0**23
    assert trace.scales[-1] == 2.0 ** (28 - len(trace.skipped))
    assert trained(20, 2.0**28).scales == trace.scales[:21]  # one seed, one trace
