"""A checkpoint that says what it is: the configuration and the run that it came from."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from trilab.config.job import Job

#: The key under which a checkpoint holds what `trilab evaluate checkpoint=...` needs.
KEY = "trilab"


class Identity(Callback):
    """Writes the run's configuration and id into every checkpoint, as plain containers."""

    def __init__(self, job: Job, run_id: str) -> None:
        self._identity = {"config": job.config, "choices": dict(job.choices), "run_id": run_id}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self._identity
