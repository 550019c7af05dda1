"""The gradient scaler's counts and the plugins, against torch's own behaviour worked out by hand."""

import pytest
import torch
from torch import nn

from trilab.errors import ConfigError
from trilab.precision import CountingGradScaler, Precision, ScaledPrecision, runs, slowdown


def _step(scaler: CountingGradScaler, optimizer: torch.optim.Optimizer, weight: nn.Parameter, factor: float) -> None:
    optimizer.zero_grad()
    scaler.scale((weight * factor).sum()).backward()
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_steps_are_counted_and_leave_the_weights_alone(fused: bool) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.5, fused=fused)
    scaler = CountingGradScaler("cpu", init_scale=8.0, growth_interval=2)
    _step(scaler, optimizer, weight, float("inf"))
    assert (scaler.skipped_steps, scaler.get_scale()) == (1, 4.0)  # overflow: skipped, scale halved
    assert torch.equal(weight, torch.ones(3))
    _step(scaler, optimizer, weight, 1.0)
    assert torch.allclose(weight, torch.full((3,), 0.5))  # unscaled gradient 1, rate 0.5
    _step(scaler, optimizer, weight, 1.0)
    assert (scaler.skipped_steps, scaler.get_scale()) == (1, 8.0)  # two good steps: scale doubled
    _step(scaler, optimizer, weight, float("nan"))
    assert scaler.skipped_steps == 2


def test_the_count_is_part_of_the_checkpoint() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = CountingGradScaler("cpu", init_scale=8.0)
    _step(scaler, optimizer, weight, float("inf"))
    restored = CountingGradScaler("cpu", init_scale=1.0)
    restored.load_state_dict(scaler.state_dict())
    assert restored.skipped_steps == 1
    assert restored.state_dict() == scaler.state_dict()


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_sees_unscaled_gradients_with_any_optimiser(fused: bool) -> None:
    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=fused)
    plugin = ScaledPrecision("16-mixed", "cpu", CountingGradScaler("cpu", init_scale=1024.0))
    plugin.scaler.scale((weight * 3.0).sum()).backward()  # gradient 3 in each of 4: norm 6
    if not fused:  # Lightning unscales those itself before it clips
        plugin.scaler.unscale_(optimizer)
    plugin.clip_gradients(optimizer, 1.0)
    plugin.scaler.step(optimizer)
    assert torch.allclose(weight, torch.full((4,), -0.5), atol=1e-4)  # norm 1: 0.5 in each


def test_what_each_precision_comes_to_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fp32 = Precision("fp32").on("cpu")
    assert (fp32.name, fp32.warning) == ("fp32", None)
    monkeypatch.setattr("trilab.precision.slowdown", lambda dtype: 1.1)
    fallen = Precision("16-mixed").on("cpu")
    assert fallen.name == "bf16-mixed"
    assert "bf16-mixed on a CPU" in str(fallen.warning)
    bf16 = Precision("bf16-mixed").on("cpu")
    assert bf16.warning is None
    with bf16.plugin.forward_context():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype is torch.bfloat16
    forced = Precision("16-mixed", force_fp16_on_cpu=True, init_scale=64.0).on("cpu")
    assert forced.name == "16-mixed"
    with forced.plugin.forward_context():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype is torch.float16
    assert forced.plugin.scaler.get_scale() == 64.0
    with pytest.raises(ConfigError, match=r"precision\.strict"):
        Precision("16-mixed", strict=True).on("cpu")


def test_a_cpu_without_fast_bfloat16_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trilab.precision.slowdown", lambda dtype: 61.3)
    said = "This CPU has no instructions for bfloat16: a matrix product takes 61 times as long as in fp32."
    assert Precision("bf16-mixed").on("cpu").warning == said
    assert str(Precision("16-mixed").on("cpu").warning).endswith(said)
    assert Precision("fp32").on("cpu").warning is None


def test_products_of_a_type_are_tried() -> None:
    assert slowdown(torch.bfloat16) > 0


def test_precisions_are_tried() -> None:
    assert runs("cpu", torch.bfloat16)
    assert not runs("cpu", torch.int32)
    if not torch.cuda.is_available():
        assert not runs("cuda", torch.float16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_16_mixed_is_float16_with_a_scaler() -> None:
    found = Precision("16-mixed", strict=True).on("cuda")
    assert (found.name, found.warning) == ("16-mixed", None)
    assert found.plugin.scaler.is_enabled()
