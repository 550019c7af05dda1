"""A checkpoint that says what it is: the configuration and the run that it came from."""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from trilab.config.job import Job
from trilab.errors import ConfigError

#: The key under which a checkpoint holds what `trilab evaluate checkpoint=...` and `resume=...` need.
KEY = "trilab"


def identity(job: Job, run_id: str, members: Sequence[str] = ()) -> dict[str, Any]:
    """What a checkpoint says of itself, as plain containers.

    Args:
        job: what was run.
        run_id: MLflow's.
        members: MLflow's ids of the agents' runs, where the checkpoint holds several agents.
    """
    public = job.public
    about = {"config": dict(public.config), "choices": dict(public.choices)}
    return {**about, "run_id": run_id, "members": list(members)}


class Identity(Callback):
    """Writes who a run is into every checkpoint.

    Args:
        identity: see the function of that name.
    """

    def __init__(self, identity: Mapping[str, Any]) -> None:
        self._identity = dict(identity)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self._identity


def read_checkpoint(path: Path, argument: str) -> dict[str, Any]:
    """A checkpoint's content, its tensors still in the file; its identity under `KEY`.

    Args:
        path: of the file.
        argument: what the user named it by, for the message.

    Raises:
        ConfigError: it is not there, or is no checkpoint of trilab.
    """
    if not path.is_file():
        raise ConfigError(f"{argument}={path}: there is no such file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        assert {"config", "choices", "run_id"} <= set(content[KEY])
    except (
        AssertionError,
        EOFError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ):
        raise ConfigError(f"{argument}={path}: not a checkpoint of trilab.") from None
    return dict(content)
