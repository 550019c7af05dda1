"""Training and evaluation of a click model by binary cross-entropy."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trilab.data.recsys.metrics import auc, logloss
from trilab.data.recsys.spec import TableSpec
from trilab.models.module import Module, OptimizerFactory
from trilab.models.schedules import Schedule

ClickBatch = tuple[Tensor, Tensor, Tensor]


class Recommender(Module):
    """Any network from ids and dense features to a logit. Reports `auc` and `logloss`, exact over the whole set.

    Args:
        network: makes the network from the data's spec.
    """

    def __init__(
        self,
        spec: TableSpec,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        network: Callable[..., nn.Module],
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network = network(spec=spec)
        self._scored: list[tuple[Tensor, Tensor]] = []  # logits and labels of an evaluation, on the device

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        return self.network(ids, dense)  # (batch,)

    def training_step(self, batch: ClickBatch, batch_idx: int) -> Tensor:
        ids, dense, labels = batch
        loss = F.binary_cross_entropy_with_logits(self(ids, dense).float(), labels)
        self.observe(len(labels), loss=loss)
        return loss

    def _evaluate(self, batch: ClickBatch) -> None:
        ids, dense, labels = batch
        self._scored.append((self(ids, dense).float(), labels))

    def _report(self, split: str) -> None:
        logits, labels = (torch.cat(column).cpu() for column in zip(*self._scored, strict=True))
        self.report({f"{split}/auc": auc(logits, labels), f"{split}/logloss": logloss(logits, labels)})
        self._scored = []

    def on_validation_epoch_start(self) -> None:
        self._scored = []

    def on_test_epoch_start(self) -> None:
        self._scored = []

    def validation_step(self, batch: ClickBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: ClickBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")
