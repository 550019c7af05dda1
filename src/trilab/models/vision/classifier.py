"""Training and evaluation of an image classifier by cross-entropy."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trilab.collectives import summed
from trilab.data.vision.spec import ImageSpec
from trilab.errors import ConfigError
from trilab.models.module import Module, OptimizerFactory
from trilab.models.schedules import Schedule
from trilab.models.vision.decoupled_sgd import DecoupledSGD
from trilab.models.vision.lookahead import Lookahead
from trilab.models.vision.tta import mean_logits
from trilab.ranges import FractionBelowOne

#: The key under which a checkpoint holds the fast weights of Lookahead; its `state_dict` holds the slow ones.
_FAST = "lookahead_fast"


class Classifier(Module):
    """Any network from images to logits. Reports `loss` and `accuracy`.

    A network may have two methods more than `forward`. `initialize(images)` is called once at the start of a fit that
    is not resumed, with the first `initialization_images` (an attribute of it; 0 for none) of the training images, as
    the data's `first_images` gives them. `start_epoch(epoch)` is called before each epoch, and where a fit is resumed.

    With `lookahead` the slow weights are the model: validation and test see them, checkpoints hold them in their
    `state_dict` (and beside it the fast weights, to go on from), and the end of a fit leaves them in the network.

    Args:
        network: makes the network from the data's spec.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016, section 7,
            https://arxiv.org/abs/1512.00567); in training alone.
        tta: views whose logits are averaged in validation and test: 0 for the image alone, 1 for its mirror image too,
            2 for both shifted by a pixel too (`trilab.models.vision.tta`). The loss is of the mean logits.
        lookahead: keeps slow weights; None for none.
    """

    def __init__(
        self,
        spec: ImageSpec,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        network: Callable[..., nn.Module],
        label_smoothing: FractionBelowOne = 0.0,
        tta: Literal[0, 1, 2] = 0,
        lookahead: Lookahead | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network = network(spec=spec)
        self.label_smoothing = label_smoothing
        self.tta: Literal[0, 1, 2] = tta
        self.lookahead = lookahead
        self._start_epoch: Callable[[int], None] | None = getattr(self.network, "start_epoch", None)
        self._fast: dict[str, Tensor] | None = None  # of a checkpoint that a fit goes on from
        self._sums = torch.zeros(3)  # loss, hits, images; on the device during an evaluation

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = super().make_optimizer(parameters)
        if isinstance(optimizer, DecoupledSGD):
            optimizer.bind(self.network)
        return optimizer

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)  # (batch, classes)

    # Training

    def on_fit_start(self) -> None:
        count = getattr(self.network, "initialization_images", 0)
        if not count or self.trainer.ckpt_path is not None:
            return
        first_images = getattr(getattr(self.trainer, "datamodule", None), "first_images", None)
        if first_images is None:
            raise ConfigError(
                "model.network has to see training images before it is trained, and the data cannot give them. "
                "Choose data of vision, such as data=vision/cifar10."
            )
        self.network.initialize(first_images(count))  # type: ignore[operator]  # it says that it wants them

    def on_train_start(self) -> None:
        if self.lookahead is not None:
            self.lookahead.start(self.network, self._fast)
            self._fast = None
        self.on_train_epoch_start()  # Lightning leaves that out where a fit goes on in the middle of an epoch

    def on_train_epoch_start(self) -> None:
        if self._start_epoch is not None:
            self._start_epoch(self.current_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.network(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        hits = (logits.detach().argmax(1) == labels).count_nonzero()
        self.observe(len(labels), {"accuracy": hits}, loss=loss)
        return loss

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # Here and not at the batch's end, so that a checkpoint of this step has it.
        if self.lookahead is not None and self.lookahead.due(step := self.global_step + 1):
            self.lookahead.update(self._progress(step))

    def on_train_end(self) -> None:
        if self.lookahead is not None and self.lookahead.started:
            self.lookahead.stop()

    # Evaluation

    def _start_evaluation(self) -> None:
        self._sums = torch.zeros(3, device=self.device)
        if self.lookahead is not None and self.lookahead.started:
            self.lookahead.show(slow=True)

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = mean_logits(self.network, images, self.tta)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        hits = (logits.argmax(1) == labels).sum()
        self._sums += torch.stack([loss, hits, hits.new_tensor(len(labels))])

    def _report(self, split: str) -> None:
        loss, hits, images = summed(self._sums).tolist()  # the one synchronisation of an evaluation
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

    def on_validation_end(self) -> None:
        if self.lookahead is not None and self.lookahead.started:
            self.lookahead.show(slow=False)

    def on_test_epoch_end(self) -> None:
        self._report("test")

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.lookahead is None or not self.lookahead.started:
            return
        checkpoint["state_dict"].update({f"network.{name}": slow for name, slow in self.lookahead.slow().items()})
        checkpoint[_FAST] = self.lookahead.fast()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._fast = checkpoint.get(_FAST)
