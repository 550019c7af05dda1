"""Training and evaluation of an image classifier by cross-entropy."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trilab.data.vision.spec import ImageSpec
from trilab.models.module import Module, OptimizerFactory
from trilab.models.schedules import Schedule
from trilab.ranges import FractionBelowOne


class Classifier(Module):
    """Any network from images to logits. Reports `loss` and `accuracy`.

    Args:
        network: makes the network from the data's spec.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016, section 7,
            https://arxiv.org/abs/1512.00567); in training alone.
    """

    def __init__(
        self,
        spec: ImageSpec,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        network: Callable[..., nn.Module],
        label_smoothing: FractionBelowOne = 0.0,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network = network(spec=spec)
        self.label_smoothing = label_smoothing
        self._sums = torch.zeros(3)  # loss, hits, images; on the device during an evaluation

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)  # (batch, classes)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.observe(len(labels), loss=loss, accuracy=(logits.argmax(1) == labels).float().mean())
        return loss

    def _start_evaluation(self) -> None:
        self._sums = torch.zeros(3, device=self.device)

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        hits = (logits.argmax(1) == labels).sum()
        self._sums += torch.stack([loss, hits, hits.new_tensor(len(labels))])

    def _report(self, split: str) -> None:
        loss, hits, images = self._sums.tolist()  # the one synchronisation of an evaluation
        self.report({f"{split}/loss": loss / images, f"{split}/accuracy": hits / images})

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")
