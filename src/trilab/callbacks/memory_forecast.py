"""What an optimiser and a forward pass will keep in memory, before either has run."""

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.precision import Precision as PrecisionPlugin
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from trilab.models.recsys.embedding import Lookup
from trilab.models.recsys.row_optimizers import RowOptimizer
from trilab.numerics.saved_tensors import Part, SavedTensors

#: Bytes by dtype.
Held = dict[torch.dtype, int]

#: Rows of the two forward passes that the line goes through: batch normalisation needs more than one.
_FEW, _MORE = 4, 8


def forecast_state(optimizer: torch.optim.Optimizer) -> Held | None:
    """Bytes of state after the first step: of a step that a shadow takes, with parameters that have no memory.

    None where the optimiser does not run so. A state that is there already, of a training that goes on, is what counts.
    """
    found: Held = {}
    if optimizer.state:
        for own in optimizer.state.values():
            _count(found, own)
        return found
    shadow = _shadow(optimizer)
    try:
        for group, real in zip(shadow.param_groups, optimizer.param_groups, strict=True):
            group["params"] = [_without_memory(p) for p in real["params"] if p.requires_grad]
        tables = shadow._tables if isinstance(shadow, RowOptimizer) else []
        if tables:
            shadow._tables = []
            shadow.param_groups = shadow.param_groups[:-2]  # tables and their rows follow a rule of their own
        shadow.foreach = False
        type(optimizer).step(shadow)
        for own in shadow.state.values():
            _count(found, own)
        for table in tables:
            _count_rows(found, shadow, table, optimizer.param_groups[-2])
    except Exception:  # an optimiser of the user's own may do anything, and this is no reason to stop a training
        return None
    return found


def _shadow(optimizer: torch.optim.Optimizer) -> Any:
    """The same optimiser without parameters, state and hooks. copy.copy would leave most of it out."""
    shadow = object.__new__(type(optimizer))
    shadow.__dict__.update(vars(optimizer))
    shadow.__dict__.pop("step", None)  # a learning-rate scheduler counts the calls of this one
    shadow.state = defaultdict(dict)
    for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        setattr(shadow, hooks, OrderedDict())
    plain = {"fused": False, "foreach": False}
    shadow.param_groups = [
        {**group, **{key: value for key, value in plain.items() if key in group}} for group in optimizer.param_groups
    ]
    return shadow


def _without_memory(parameter: Tensor) -> nn.Parameter:
    shadow = nn.Parameter(torch.empty_like(parameter, device="meta"))
    shadow.grad = torch.empty_like(shadow)
    return shadow


def _count(found: Held, state: Mapping[str, Any], factor: int = 1) -> None:
    for value in state.values():
        if isinstance(value, Tensor):
            size = value.numel() * value.element_size() * (factor if value.dim() else 1)
            found[value.dtype] = found.get(value.dtype, 0) + size


def _count_rows(found: Held, shadow: RowOptimizer, table: Any, group: dict[str, Any]) -> None:
    """The state of a table, all its rows together, from an update of a table of one row."""
    weight = torch.zeros(1, table.weight.shape[1], dtype=table.weight.dtype)
    one: Any = SimpleNamespace(weight=weight, columns=table.columns)
    row = Lookup(torch.zeros(1, dtype=torch.int64), weight.clone())
    shadow.update(one, row, torch.zeros_like(weight), {**group, "fused": False})
    _count(found, shadow.state[weight], len(table.weight))


def forecast_activations(module: LightningModule, batch: Any, precision: PrecisionPlugin) -> Mapping[Part, int] | None:
    """Bytes that a forward pass of `module.network` on the batch will keep: a batch is its inputs, then the labels.

    The loss is not among it. None where module or batch are of another kind, or the network does not run so.

    Args:
        module: whose network has a copy made of all but its parameters, so that buffers stay as they are.
        batch: the first one, on its device.
        precision: whose autocast is in effect.
    """
    network = getattr(module, "network", None)
    if not isinstance(network, nn.Module) or not isinstance(batch, tuple | list) or len(batch) < 2:
        return None
    inputs = batch[:-1]
    if not all(isinstance(value, Tensor) and value.dim() for value in inputs):
        return None
    rows = len(inputs[0])
    try:
        with isolate_rng(), _mps_generator():
            if rows <= _MORE:
                return _kept(network, inputs, precision)
            few = _kept(network, [value[:_FEW] for value in inputs], precision)
            more = _kept(network, [value[:_MORE] for value in inputs], precision)
    except Exception:  # as above
        return None
    slope = {part: (more[part] - few.get(part, 0)) / (_MORE - _FEW) for part in more}
    return {part: max(0, round(few.get(part, 0) + slope[part] * (rows - _FEW))) for part in more}


def _kept(network: nn.Module, inputs: Any, precision: PrecisionPlugin) -> Mapping[Part, int]:
    weights = list(network.parameters())
    twin = copy.deepcopy(network, {id(weight): weight for weight in weights})
    # Under autocast, copies of the weights are made by the pass that needs them, so by each of the two.
    with SavedTensors(weights) as counter, precision.forward_context():
        output = twin(*inputs)
    del output
    return counter.peak


@contextmanager
def _mps_generator() -> Iterator[None]:
    """Gives MPS's random stream back as it was: `isolate_rng` knows the others alone."""
    if not torch.backends.mps.is_available():
        yield
        return
    state = torch.mps.get_rng_state()
    try:
        yield
    finally:
        torch.mps.set_rng_state(state)
