"""Checkpoints of a run: its best by a validation metric, and its latest to go on from."""

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from trilab.errors import say
from trilab.files import bring
from trilab.signals import shielded


class BestAndLast(ModelCheckpoint):
    """Lightning's callback with a `last.ckpt` that is written at every epoch's end, and a best that outlives a resume.

    Lightning 2.6 writes `last.ckpt` only where it has just written a best one, so that after an hour without
    improvement the hour is lost. And a training that goes on in another folder forgets how good the best was.

    Args:
        monitor: metric that the best is chosen by.
        mode: which way of it is better.
        filename: of the best checkpoint.
        save_top_k: how many of the best are kept; -1 for all.
        save_last: keep the latest too.
    """

    def __init__(
        self,
        monitor: str | None,
        mode: Literal["min", "max"],
        filename: str = "best",
        save_top_k: Annotated[int, Ge(-1)] = 1,
        save_last: bool = True,
    ) -> None:
        super().__init__(monitor=monitor, mode=mode, filename=filename, save_top_k=save_top_k)
        self._keep_last = save_last
        self._resumed_from: Path | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.monitor is not None and not sum(trainer.num_val_batches):
            self.save_top_k = 0  # nothing says which is the best, so that the test takes the weights of the end

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with shielded():  # a signal waits, so that no file is left half written
            super().on_train_epoch_end(trainer, pl_module)
            if self._keep_last and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                assert self.dirpath is not None
                # After everything else of the epoch, so that a training that goes on from here begins with the next.
                trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt", weights_only=False)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._resumed_from = Path(str(trainer.ckpt_path)) if trainer.state.fn == TrainerFn.FITTING else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the best checkpoints so far over into the new run's folder."""
        if self._resumed_from is None:  # a test wants the weights and nothing else
            return
        assert self.dirpath is not None
        kept = {}
        for path, score in state_dict["best_k_models"].items():
            found = bring(Path(path), self._resumed_from.parent, Path(self.dirpath))
            if found is None:
                say(f"{path}, the best so far, is no longer there: the best from here on counts.")
            else:
                kept[str(found)] = score
        if kept:
            best, worst = (max, min) if self.mode == "max" else (min, max)
            self.best_k_models = kept
            self.best_model_path = best(kept, key=lambda path: float(kept[path]))
            self.best_model_score = kept[self.best_model_path]
            self.kth_best_model_path = worst(kept, key=lambda path: float(kept[path]))
            self.kth_value = kept[self.kth_best_model_path]
