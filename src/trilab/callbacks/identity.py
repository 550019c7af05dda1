"""A checkpoint that says what it is: the configuration and the run that it came from."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

#: The key under which a checkpoint holds what `trilab evaluate checkpoint=...` needs.
KEY = "trilab"


class Identity(Callback):
    """Writes the run's configuration and id into every checkpoint, as plain containers.

    Args:
        config: the whole configuration, resolved.
        choices: the option of each group.
        run_id: MLflow's.
    """

    def __init__(self, config: Mapping[str, Any], choices: Mapping[str, str], run_id: str) -> None:
        self._identity = {"config": dict(config), "choices": dict(choices), "run_id": run_id}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self._identity
