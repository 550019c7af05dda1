"""A run's best checkpoint as a model that answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trilab import __version__
from trilab.callbacks.identity import KEY, read_checkpoint
from trilab.config.job import Job, build
from trilab.data.recsys.interactions import RankingData
from trilab.data.recsys.spec import TableSpec
from trilab.data.recsys.tables import ClickTable, preprocessing_of
from trilab.data.rl.spec import EnvSpec
from trilab.data.vision.spec import ImageSpec
from trilab.errors import UserError
from trilab.lightning import fitting_checkpoint
from trilab.models.module import Module
from trilab.models.schedules import Constant
from trilab.pretrained import with_checkpoints
from trilab.serving.contract import Contract
from trilab.serving.images import ImageBytes
from trilab.serving.observations import Observations
from trilab.serving.package import Origin, Served
from trilab.serving.programs import program_of
from trilab.serving.rows import IdRows, Pairs, RawRows


def served_of(job: Job, checkpoint: Path, device: str = "cpu") -> Served:
    """The model of a checkpoint, built as its run built it, in float32.

    A model of raw rows needs nothing but the checkpoint; the others look at their data for sizes.

    Args:
        job: the run's configuration, of which nothing is trained.
        checkpoint: of the run.
        device: to compute on.

    Raises:
        UserError: the model does not fit, or cannot be served.
    """
    content = read_checkpoint(checkpoint, "checkpoint")
    data = build(job.config["data"])
    if ClickTable.__qualname__ in content and isinstance(data, ClickTable):
        preprocessing = preprocessing_of(content[ClickTable.__qualname__])
        spec: Any = data.spec_of(preprocessing)
        contract: Contract = RawRows(preprocessing)
    else:
        data.prepare_data()
        data.setup("fit")
        spec = data.spec
        contract = _contract(data, spec)
    model: Module = build(
        with_checkpoints(job, Path()).config["model"],
        spec=spec,
        optimizer=build(job.config["optimizer"]),
        schedule=Constant(),
    )
    with fitting_checkpoint():
        model.load_state_dict(content["state_dict"])
    program = program_of(model.eval(), data, spec).to(device)
    return Served(program, contract, _origin(content[KEY]["run_id"], job.choices), device)


def served_now(model: Module, data: Any, choices: Mapping[str, str], run_id: str) -> Served:
    """A model that has just been trained, with the weights that it has, brought to the CPU.

    Args:
        model: of which nothing more is trained.
        data: that it was trained on.
        choices: the option of each group.
        run_id: of the run.

    Raises:
        UserError: it cannot be served.
    """
    contract = RawRows(data.preprocessing) if isinstance(data, ClickTable) else _contract(data, data.spec)
    program = program_of(model.cpu().eval(), data, data.spec)
    return Served(program, contract, _origin(run_id, choices))


def _origin(run_id: str, choices: Mapping[str, str]) -> Origin:
    named = choices["experiment"], choices["model"], choices["data"]
    return Origin(run_id, *named, __version__, str(torch.__version__))


def _contract(data: Any, spec: Any) -> Contract:
    if isinstance(data, RankingData):
        # Of a pair only the numbers are given; what is known of each stands here.
        users, items = data._sides
        ids = users.ids.cpu().contiguous(), items.ids.cpu().contiguous()
        return Pairs(ids, (users.dense.cpu().contiguous(), items.dense.cpu().contiguous()))
    if isinstance(spec, TableSpec):
        return IdRows(spec.fields, spec.cardinalities, spec.dense_names)
    if isinstance(spec, ImageSpec):
        return ImageBytes(spec.channels, spec.height, spec.width, spec.classes)
    if isinstance(spec, EnvSpec):
        shape = list(spec.observation_shape)
        return Observations(spec.env_id, shape, spec.observation_dtype, spec.num_actions, spec.num_states)
    raise UserError(f"{type(data).__name__} has no form in which it could be asked over HTTP.")
