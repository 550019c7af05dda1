"""Precision as the configuration asks for it and as the hardware gives it, and a gradient scaler that counts.

Micikevicius et al. 2018, Mixed Precision Training (https://arxiv.org/abs/1710.03740): products in 16 bits, master
weights and sums in 32, and for float16 a loss scale that keeps small gradients from becoming zero.
"""

import time
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.plugins.precision import Precision as FullPrecision
from torch import Tensor
from torch.optim import Optimizer

from trilab.errors import ConfigError
from trilab.ranges import Fraction, PositiveFloat, PositiveInt
from trilab.runtime import DeviceType, available

#: Rows and columns of the matrices whose product tells how fast a type is; the factor from which that is worth saying.
_SIDE, _SLOW = 256, 4.0

Name = Literal["fp32", "16-mixed", "bf16-mixed"]


@dataclass(frozen=True)
class EffectivePrecision:
    """What really runs: its name, Lightning's plugin for it, and a sentence where it is not what was asked for."""

    name: Name
    plugin: FullPrecision
    warning: str | None = None


class Precision:
    """The precision that a run asks for.

    Args:
        name: fp32, 16-mixed or bf16-mixed.
        strict: refuse where the precision does not run as asked.
        force_fp16_on_cpu: run real float16 with a gradient scaler on the CPU.
        init_scale: first loss scale.
        growth_factor: factor of the scale after `growth_interval` steps without overflow.
        backoff_factor: factor of the scale after a step that overflowed.
        growth_interval: steps without overflow before the scale grows.
    """

    def __init__(
        self,
        name: Literal["fp32", "16-mixed", "bf16-mixed"],
        strict: bool = False,
        force_fp16_on_cpu: bool = False,
        init_scale: PositiveFloat = 65536.0,
        growth_factor: PositiveFloat = 2.0,
        backoff_factor: Fraction = 0.5,
        growth_interval: PositiveInt = 2000,
    ) -> None:
        self.name: Name = name
        self.strict = strict
        self.force_fp16_on_cpu = force_fp16_on_cpu
        self._scaler_settings: dict[str, Any] = {
            "init_scale": init_scale,
            "growth_factor": growth_factor,
            "backoff_factor": backoff_factor,
            "growth_interval": growth_interval,
        }

    def on(self, device: DeviceType) -> EffectivePrecision:
        """What this precision comes to on a device.

        Raises:
            ConfigError: `strict`, and the device does not run it as asked; or the device cannot run it at all.
        """
        if self.name == "fp32":
            return EffectivePrecision("fp32", FullPrecision())
        if self.name == "16-mixed" and device == "cpu" and not self.force_fp16_on_cpu:
            if self.strict:
                raise ConfigError(
                    "precision=16-mixed does not run as asked on a CPU (it would run as bf16-mixed), and "
                    "precision.strict=true refuses that. Use precision=bf16-mixed, or precision.force_fp16_on_cpu=true."
                )
            warning = "16-mixed runs as bf16-mixed on a CPU (float16 is 8 to 70 times slower there)."
            told = " ".join([warning, *_slow_bfloat16()])
            return EffectivePrecision("bf16-mixed", MixedPrecision("bf16-mixed", device), told)
        dtype = torch.float16 if self.name == "16-mixed" else torch.bfloat16
        if not runs(device, dtype):
            raise ConfigError(f"precision={self.name}: {device} here cannot compute in {dtype}. Use precision=fp32.")
        if self.name == "bf16-mixed":
            told = " ".join(_slow_bfloat16()) if device == "cpu" else ""
            return EffectivePrecision("bf16-mixed", MixedPrecision("bf16-mixed", device), told or None)
        scaler = CountingGradScaler(device, **self._scaler_settings)
        slow = "Real float16 on a CPU is 8 to 70 times slower than fp32." if device == "cpu" else None
        return EffectivePrecision("16-mixed", ScaledPrecision("16-mixed", device, scaler), slow)


def runs(device: DeviceType, dtype: torch.dtype) -> bool:
    """Whether a small layer's forward and backward pass work under autocast. Tried, not looked up."""
    if device not in available():
        return False
    if device == "cuda" and dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        return False  # emulated: it runs, but at a speed that says nothing about bf16
    try:
        layer = torch.nn.Linear(8, 8, device=device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a type it cannot do; the answer is False
            with torch.autocast(device, dtype):
                output = layer(torch.ones(4, 8, device=device))
        output.float().sum().backward()
        return output.dtype is dtype and bool(torch.isfinite(output).all())
    except (RuntimeError, TypeError, ValueError):
        return False


def slowdown(dtype: torch.dtype) -> float:
    """How many times as long as in fp32 a matrix product takes on the CPU. Tried, not looked up; some milliseconds."""
    seconds = []
    for own in (dtype, torch.float32):
        matrix = torch.ones(_SIDE, _SIDE, dtype=own)
        torch.mm(matrix, matrix)
        starts = []
        for _ in range(3):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            starts.append(time.perf_counter() - start)
        seconds.append(min(starts))
    return seconds[0] / seconds[1]


def _slow_bfloat16() -> list[str]:
    factor = slowdown(torch.bfloat16)
    if factor < _SLOW:
        return []
    return [f"This CPU has no instructions for bfloat16: a matrix product takes {factor:.0f} times as long as in fp32."]


class CountingGradScaler(torch.amp.GradScaler):
    """torch's gradient scaler, with a count of the optimiser steps that it left out because gradients overflowed.

    The count stays on the device, so that counting does not synchronise.
    """

    def __init__(self, device: str, **settings: Any) -> None:
        super().__init__(device=device, **settings)
        self._skipped: Tensor | None = None

    @property
    def skipped_steps(self) -> int:
        """Optimiser steps left out so far. Synchronises with the device."""
        return 0 if self._skipped is None else int(self._skipped)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        found = [
            flag for state in self._per_optimizer_states.values() for flag in state["found_inf_per_device"].values()
        ]
        if found:
            overflowed = torch.stack([flag.to(found[0].device) for flag in found]).amax().gt(0).to(torch.int64)
            self._skipped = overflowed if self._skipped is None else self._skipped + overflowed
        super().update(new_scale)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "skipped_steps": self.skipped_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        self._skipped = torch.tensor(state.pop("skipped_steps", 0), device=self._device)
        super().load_state_dict(state)


class ScaledPrecision(MixedPrecision):
    """float16 with loss scaling, in which gradient clipping works with fused optimisers too.

    Lightning refuses that pair, because a fused optimiser unscales inside its step. torch allows to unscale first and
    clip then: the step notices that the gradients are unscaled already.
    """

    def clip_gradients(
        self, optimizer: Optimizer, clip_val: float = 0.0, gradient_clip_algorithm: Any = "norm"
    ) -> None:
        if clip_val > 0 and getattr(optimizer, "_step_supports_amp_scaling", False):
            assert self.scaler is not None
            self.scaler.unscale_(optimizer)
        FullPrecision.clip_gradients(self, optimizer, clip_val, gradient_clip_algorithm)
