"""Stops a run of a search early, where others were better at the same point."""

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from trilab.errors import say
from trilab.sweeps.trial import Trial
from trilab.tracking.logger import MlflowLogger


class Pruning(Callback):
    """Reports each validation to the search that launched the run, and stops the run where its pruner says so.

    A run that is stopped ends as FINISHED with the tag `trilab.pruned`, and is not tested: it is out of the race, and
    its place in it is known. Where no search has launched the run, as when it is made again by itself, it does nothing.

    Args:
        monitor: metric of the validation; one that the search minimises or maximises.
    """

    def __init__(self, monitor: str) -> None:
        self._monitor = monitor
        self._validations = 0
        self._complained = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or trainer.should_stop:
            return
        self._validations += 1
        stop = self._ask(trainer) if trainer.is_global_zero else False
        if not trainer.strategy.broadcast(stop):
            return
        trainer.should_stop = True
        trainer.limit_test_batches = 0

    def _ask(self, trainer: Trainer) -> bool:
        """Whether to stop; of a search that does not answer, not."""
        folder = Path(trainer.default_root_dir)
        trial, value = Trial.read(folder), trainer.callback_metrics.get(self._monitor)
        if trial is None or value is None:
            return False
        from trilab.sweeps.study import report

        try:
            if not report(trial, self._validations, float(value)):
                return False
        except Exception as error:  # a search's store never ends a training
            if not self._complained:
                self._complained = True
                say(f"pruning: {type(error).__name__}: {error}. The run goes on; this is said once.")
            return False
        trial.pruned = self._validations
        trial.write(folder)
        said = f"{self._monitor} {float(value):.5g} at validation {self._validations}"
        for logger in trainer.loggers:
            if isinstance(logger, MlflowLogger):
                logger.tag({"trilab.pruned": said})
        return True
