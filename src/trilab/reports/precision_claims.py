"""The claims of Micikevicius et al. 2018, each tried by itself (https://arxiv.org/abs/1710.03740)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trilab.config.compose import compose
from trilab.config.job import Job
from trilab.errors import UserError, say
from trilab.lightning import assemble
from trilab.numerics.activation_memory import Kept, examples, kept
from trilab.numerics.loss_scaling import Trace, scripted, trained
from trilab.numerics.small_updates import repeated_update, smallest_power_kept
from trilab.numerics.underflow import cast_shares, gradients
from trilab.reports.page import Rows
from trilab.reports.precision_plan import PrecisionStudy

STEPS, UPDATE = 1000, -1e-4
#: Types of gradients and of the weights that they are added to.
UPDATED = {
    "float16 weights": (torch.float16, torch.float16),
    "bfloat16 weights": (torch.bfloat16, torch.bfloat16),
    "float16 gradients, fp32 master copy": (torch.float16, torch.float32),
}
#: Loss scales by whose powers of two gradients are cast.
SCALES = tuple(2.0**power for power in range(0, 25, 3))
#: Of the trace of a real training: a first scale that is far too large, and steps enough to grow again.
_FIRST_SCALE, _TRACE_STEPS = 2.0**28, 9000
_BATCH = 256
_CASTS = {"fp32": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Claims:
    """What came out.

    Args:
        updates: the weight after every update, by how it is kept: (STEPS + 1,) each.
        gradients: of activations and of weights; None where there was no data for it.
        trace: the loss scale in a training.
        script: the loss scale where it is known which steps overflow.
        memory: what is kept for the backward pass, by network and precision.
    """

    updates: Mapping[str, Tensor]
    gradients: tuple[Tensor, Tensor] | None
    trace: Trace
    script: Trace
    memory: Mapping[str, Mapping[str, Kept]]


def check(study: PrecisionStudy) -> Claims:
    """Tries them all; half a minute on a CPU."""
    return Claims(
        {name: repeated_update(1.0, UPDATE, STEPS, *types) for name, types in UPDATED.items()},
        _gradients(study.gradients, study.gradient_steps),
        trained(_TRACE_STEPS, _FIRST_SCALE),
        scripted({10}, 2100),
        {
            name: {precision: kept(network, inputs, dtype) for precision, dtype in _CASTS.items()}
            for name, (network, inputs) in examples(_BATCH).items()
        },
    )


def _gradients(overrides: Sequence[str], steps: int) -> tuple[Tensor, Tensor] | None:
    """Of a batch, after some steps of a training in fp32 on the CPU."""
    if not overrides:
        return None
    try:
        data, module = assemble([Job.of(compose(list(overrides)), {}, list(overrides))])
    except UserError as error:
        say(f"no gradients are looked at: {error}")
        return None
    network = module.network
    assert isinstance(network, torch.nn.Module)
    optimizer = module.make_optimizer(module.parameters())
    batches = iter(data.train_dataloader())
    for _, (images, labels) in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    images, labels = next(batches)
    return gradients(network, [images], lambda logits: F.cross_entropy(logits, labels))


def table(claims: Claims) -> Rows:
    """A row for each claim: what the paper says, and what came out."""
    last = {name: f"{float(weights[-1]):.4f}" for name, weights in claims.updates.items()}
    float16, bfloat16 = torch.float16, torch.bfloat16
    edge = torch.tensor([2.0**-24, 1.0001 * 2.0**-25, 2.0**-25]).to(float16).tolist()
    rescued = torch.tensor([2.0**-24 - 2.0**-40, 2.0**-27])
    before, after = (cast_shares(rescued, scale, float16)[0] for scale in (1.0, 8.0))
    rows = [
        (
            f"1.0, {STEPS:,} updates of {UPDATE:g}",
            "16-bit weights lose them, an fp32 master copy keeps them: 0.9",
            "; ".join(f"{name} {value}" for name, value in last.items()),
        ),
        (
            "smallest power of two that a weight of 1 feels when added",
            "1/2048 = 2^-11 is lost in float16",
            f"float16 2^{smallest_power_kept(1.0, float16)}, bfloat16 2^{smallest_power_kept(1.0, bfloat16)}, "
            f"float32 2^{smallest_power_kept(1.0, torch.float32)}; subtracted, where the numbers lie closer: "
            f"2^{smallest_power_kept(1.0, float16, -1.0)}, 2^{smallest_power_kept(1.0, bfloat16, -1.0)}, "
            f"2^{smallest_power_kept(1.0, torch.float32, -1.0)}",
        ),
        (
            "small values in float16",
            "below 2^-24 they become zero",
            f"2^-24 is kept, just above 2^-25 rounds up to it, 2^-25 becomes {edge[2]:g}"
            if edge[0] == edge[1] == 2.0**-24
            else f"{edge}",
        ),
        (
            "a loss scale of 8",
            "rescues [2^-27, 2^-24)",
            f"of the ends of that range {before:.0%} become zero without it (2^-24 rounds up), {after:.0%} with it",
        ),
        (
            "a GradScaler whose step 10 overflows",
            "skips it, halves, doubles after 2,000 good steps",
            f"skipped {claims.script.skipped}; scale {claims.script.scales[10]:g}, then {claims.script.scales[11]:g}, "
            f"from step {_grown(claims.script)} on {claims.script.scales[-1]:g}",
        ),
    ]
    if claims.gradients is not None:
        activations, weights = claims.gradients
        rows.append(
            (
                "gradients of the CNN that float16 makes zero, at loss scale 1, 8, 4096",
                "a large share of activation gradients at 1",
                "; ".join(
                    f"{name} {', '.join(f'{cast_shares(own, scale, float16)[0]:.1%}' for scale in (1.0, 8.0, 4096.0))}"
                    for name, own in (("of activations", activations), ("of weights", weights))
                )
                + f"; bfloat16 at 1: {cast_shares(activations, 1.0, bfloat16)[0]:.1%}",
            )
        )
    return [dict(zip(("claim", "in the paper", "here"), row, strict=True)) for row in rows]


def _grown(trace: Trace) -> int:
    """The first step with the scale that it ends with."""
    return max(step for step, scale in enumerate(trace.scales) if scale != trace.scales[-1]) + 1


def memory_table(claims: Claims) -> Rows:
    """A row for each network and precision: MiB kept for the backward pass."""
    rows: Rows = []
    for network, precisions in claims.memory.items():
        whole = precisions["fp32"]
        for precision, own in precisions.items():
            rows.append(
                {
                    f"kept for backward, batch {_BATCH}": network,
                    "precision": precision,
                    "float activations, MiB": f"{own.floats / 2**20:.2f}",
                    "integers, MiB": f"{own.integers / 2**20:.2f}",
                    "weight copies, MiB": f"{own.weight_copies / 2**20:.2f}",
                    "float activations, share of fp32": f"{own.floats / whole.floats:.2f}",
                    "all, share of fp32": f"{own.total / whole.total:.2f}",
                }
            )
    return rows
