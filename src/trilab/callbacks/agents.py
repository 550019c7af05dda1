"""Checkpoints of agents that train at once as one batch: each agent's own best, as it would keep it alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from trilab.callbacks.identity import KEY
from trilab.errors import UserError, say
from trilab.files import bring, save
from trilab.models.module import Module, as_module

_NAME = "best.ckpt"


class AgentsBest(Callback):
    """Writes an agent's weights where its validation metric is the best so far, in the form of a lone run's checkpoint.

    So every agent can be evaluated alone (`trilab evaluate`). To go on with a training takes the whole batch's
    `last.ckpt`, which holds what was learned with.

    Args:
        monitor: metric that the best is chosen by.
        mode: `max` or `min`: which way of it is better.
        folders: for each agent's checkpoint.
        identities: who each agent is; see `trilab.callbacks.identity`.
    """

    def __init__(
        self,
        monitor: str,
        mode: str,
        folders: Sequence[Path],
        identities: Sequence[Mapping[str, Any]],
    ) -> None:
        self._monitor = monitor
        self._mode = mode
        self._folders = list(folders)
        self._identities = list(identities)
        self._scores: list[float | None] = [None] * len(folders)
        self._resumed_from: Path | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        module = as_module(pl_module)
        values = module.reported.get(self._monitor)
        if not isinstance(values, list):
            known = sorted(name for name, value in module.reported.items() if isinstance(value, list))
            raise UserError(f"No agent has a {self._monitor}, which the best is chosen by. There are: {known}.")
        for k, (value, best) in enumerate(zip(values, self._scores, strict=True)):
            if value is None or value != value:
                continue
            if best is None or (value > best if self._mode == "max" else value < best):
                self._scores[k] = value
                self._save(trainer, module, k)

    def _save(self, trainer: Trainer, module: Module, k: int) -> None:
        content = {
            "pytorch-lightning_version": pl.__version__,
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            # Copies: a view of the batch would be saved with the whole batch behind it.
            "state_dict": {name: tensor.detach().clone() for name, tensor in module.agent_state(k).items()},
            module.x_axis: module.x,  # where a test of it stands
            KEY: self._identities[k],
        }
        save(content, self._folders[k] / _NAME)

    def load(self, module: Module) -> None:
        """Gives every agent its own best weights; one that has none keeps those it has."""
        for k, folder in enumerate(self._folders):
            if (folder / _NAME).is_file():
                content = torch.load(folder / _NAME, map_location="cpu", weights_only=True)
                module.load_agent_state(k, content["state_dict"])

    # A training that goes on takes the best checkpoints over into the new run's folders.

    def state_dict(self) -> dict[str, Any]:
        return {"scores": list(self._scores), "files": [str(folder / _NAME) for folder in self._folders]}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._resumed_from = Path(str(trainer.ckpt_path)) if trainer.state.fn == TrainerFn.FITTING else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._resumed_from is None:
            return
        root = self._resumed_from.parent.parent  # seed_<s>/ stands beside checkpoints/
        for k, (score, file) in enumerate(zip(state_dict["scores"], state_dict["files"], strict=True)):
            if score is None:
                continue
            if bring(Path(file), root / Path(file).parts[-3] / "checkpoints", self._folders[k]):
                self._scores[k] = score
            else:
                say(f"{file}, the best so far, is no longer there: the best from here on counts.")
