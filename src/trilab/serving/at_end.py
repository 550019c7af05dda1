"""The model of a run that has just been trained, logged to the run with its signature and an input example."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trilab.models.module import Module
from trilab.serving.registry import model_name, write
from trilab.serving.trained import served_now
from trilab.tracking.run import Run


def log_trained(
    run: Run, model: Module, data: Any, choices: Mapping[str, str], folder: Path, checkpoint: str | Path | None
) -> None:
    """Logs it; where that cannot be, the run goes on with a tag that says why, trilab.model_error.

    Args:
        run: open.
        model: trained.
        data: that it was trained on.
        choices: the option of each group.
        folder: of the run; the model is kept in its `model/`.
        checkpoint: with the weights to log; None where the model has them.
    """
    target = folder / "model"
    try:
        if checkpoint:
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
            model.load_state_dict(content["state_dict"])
        served = served_now(model, data, choices, run.id)
        shutil.rmtree(target, ignore_errors=True)  # of a run that is gone on with
        run.outbox.model(write(served, target), model_name(served), served.contract.kind, model.x)
    except Exception as error:  # what was trained is worth more than its package
        run.outbox.complain("trilab.model_error", str(error) or type(error).__name__, "the model could not be logged")
