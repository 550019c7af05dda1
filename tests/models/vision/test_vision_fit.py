"""Fits of every image network, and of the whole speed-run recipe through Lightning: checkpoints, resume, evaluation."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from trilab.data.batches import TensorBatches
from trilab.data.vision.augment import Augmentation
from trilab.data.vision.images import ImageData, Images
from trilab.data.vision.spec import ImageSpec
from trilab.errors import ConfigError
from trilab.models.schedules import Constant, Triangular
from trilab.models.vision.airbench import Airbench
from trilab.models.vision.cifar_cnn import CifarCNN
from trilab.models.vision.classifier import Classifier
from trilab.models.vision.decoupled_sgd import DecoupledSGD
from trilab.models.vision.lookahead import Lookahead
from trilab.models.vision.resnet18 import ResNet18
from trilab.models.vision.tta import mean_logits
from trilab.precision import Precision

SPEC = ImageSpec(channels=3, height=16, width=16, classes=4)
SMALL = partial(Airbench, widths=(16, 16, 16), whiten_images=100, whiten_bias_epochs=1)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "airbench": partial(SMALL, logit_scale=1.0),
    "cifar_cnn": partial(CifarCNN, channels=(8, 8), hidden=16),
    "resnet18": ResNet18,
}


class Patterns(ImageData):
    """Noise on four patterns, each its own mirror image: rows, columns, a chessboard, none."""

    def __init__(self, train: int = 160, batch_size: int = 32, seed: int = 4, **options: Any) -> None:
        super().__init__(batch_size, 50, 40, [0.5] * 3, [0.25] * 3, seed, **options)
        self.train = train

    def load(self) -> tuple[Images, Images, int]:
        return self._draw(self.train + 40, 0), self._draw(100, 1), 4

    @staticmethod
    def _draw(n: int, seed: int) -> Images:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 4, (n,), generator=generator)
        pixels = torch.randint(0, 200, (n, 3, 16, 16), generator=generator)
        y, x = torch.arange(16)[:, None].expand(16, 16), torch.arange(16).expand(16, 16)
        patterns = torch.stack([y % 2, x % 2, (x + y) % 2, 0 * x])
        pixels += 55 * patterns[labels].unsqueeze(1)
        return Images.of(pixels.to(torch.uint8), labels)


def trainer(**options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
             "enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0}  # fmt: skip
    return pl.Trainer(**{**quiet, **options})


def recipe(**options: Any) -> Classifier:
    """The speed run in small."""
    torch.manual_seed(0)
    known = {"label_smoothing": 0.2, "tta": 2, "lookahead": Lookahead(every=3), "network": SMALL, **options}
    return Classifier(SPEC, partial(DecoupledSGD, lr=10.0, batch_size=32), Triangular(), **known)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_overfits_one_batch(name: str) -> None:
    torch.manual_seed(0)
    side = 8 if name == "resnet18" else 16
    images, labels = torch.randn(16, 3, side, side), torch.randint(0, 4, (16,))
    model = Classifier(SPEC, partial(torch.optim.Adam, lr=1e-2, fused=True), Constant(), NETWORKS[name])
    model.on_fit_start = lambda: None  # type: ignore[method-assign]  # no data that whitening could look at
    trainer(max_epochs=8 if name == "resnet18" else 60).fit(model, TensorBatches((images, labels), 16))
    with torch.no_grad():
        assert F.cross_entropy(model.train()(images), labels) < 0.1 < math.log(4)


def test_the_recipe_learns() -> None:
    model, losses = recipe(), []
    data = Patterns(train=640, augment=Augmentation(crop=1, flip="alternating"))
    keep = pl.callbacks.LambdaCallback(
        on_train_epoch_end=lambda t, m: losses.append(t.callback_metrics["val/loss"].item())
    )
    loop = trainer(max_epochs=4, callbacks=[keep])
    loop.fit(model, datamodule=data)
    loop.test(model, datamodule=data, verbose=False)
    assert losses[-1] < losses[0]
    assert loop.callback_metrics["test/accuracy"] > 0.9


# Initialisation


class Watched(nn.Module):
    """Notes what it is told."""

    initialization_images = 7

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.layer = nn.Linear(spec.channels * spec.height * spec.width, spec.classes)
        self.seen: list[Tensor] = []
        self.epochs: list[int] = []

    def initialize(self, images: Tensor) -> None:
        self.seen.append(images)

    def start_epoch(self, epoch: int) -> None:
        if self.epochs[-1:] != [epoch]:
            self.epochs.append(epoch)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def test_a_network_sees_images_before_a_fit_and_each_epochs_number(tmp_path: Path) -> None:
    def fit(**options: Any) -> Watched:
        model = recipe(network=Watched)
        keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=7, save_top_k=-1)
        checkpoint = options.pop("checkpoint", {})
        trainer(max_epochs=3, enable_checkpointing=True, callbacks=[keep]).fit(
            model, datamodule=Patterns(), **checkpoint
        )
        assert isinstance(model.network, Watched)
        return model.network

    whole = fit()
    data = Patterns()
    data.setup("fit")
    assert len(whole.seen) == 1
    assert torch.equal(whole.seen[0], data.first_images(7))
    assert whole.epochs == [0, 1, 2]
    resumed = fit(checkpoint={"ckpt_path": str(tmp_path / "step=7.ckpt"), "weights_only": True})
    assert (resumed.seen, resumed.epochs) == ([], [1, 2])


def test_whitening_without_images_to_look_at_is_a_clear_error() -> None:
    batches = TensorBatches((torch.randn(8, 3, 16, 16), torch.zeros(8, dtype=torch.int64)), 8)
    with pytest.raises(ConfigError, match=r"has to see training images .* Choose data of vision"):
        trainer(max_epochs=1).fit(recipe(), batches)


# Lookahead in a fit


class Naive(pl.Callback):
    """Lookahead by the published script's loop, on the state_dict, at the end of each batch."""

    def __init__(self, total: int) -> None:
        self.total, self.slow = total, {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.slow = state(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step % 3 == 0:
            share = 0.95**3 * (step / self.total) ** 3
            for name, value in pl_module.state_dict().items():
                if value.is_floating_point():
                    self.slow[name].lerp_(value, 1 - share)
                    value.copy_(self.slow[name])
        if step == self.total:
            pl_module.load_state_dict({**pl_module.state_dict(), **{
                name: value for name, value in self.slow.items() if value.is_floating_point()}})  # fmt: skip


def test_the_end_of_a_fit_is_the_published_loops() -> None:
    """11 steps, so that the two after the last update are discarded."""
    ours, naive = recipe(), recipe(lookahead=None)
    options = {"max_steps": 11, "limit_val_batches": 0}
    trainer(**options).fit(ours, datamodule=Patterns())
    trainer(**options, callbacks=[Naive(11)]).fit(naive, datamodule=Patterns())
    assert_equal(state(ours), state(naive))


@pytest.mark.parametrize("step", [7, 9, 10])
def test_resumed_equals_never_stopped(tmp_path: Path, step: int) -> None:
    """In the middle of the second epoch of five batches, between two updates and at one; and at the epoch's end."""

    def fit(*keep: ModelCheckpoint, **checkpoint: Any) -> Classifier:
        model = recipe()
        data = Patterns(augment=Augmentation(crop=2, flip="alternating"))
        trainer(max_epochs=4, enable_checkpointing=True, callbacks=list(keep)).fit(model, datamodule=data, **checkpoint)
        return model

    whole = fit(ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=step, save_top_k=-1))
    path = str(tmp_path / f"step={step}.ckpt")
    resumed = fit(ModelCheckpoint(tmp_path / "other"), ckpt_path=path, weights_only=True)
    assert_equal(state(whole), state(resumed))


def test_checkpoints_evaluation_and_the_end_have_the_slow_weights(tmp_path: Path) -> None:
    """With a share of 1 throughout the slow weights never move, and the fast ones restart from them."""
    model = recipe(lookahead=Lookahead(every=4, decay=1.0, power=0.0), tta=0)
    data = Patterns()
    seen: dict[str, dict[str, Tensor]] = {}
    watch = pl.callbacks.LambdaCallback(
        on_train_start=lambda t, m: seen.update(start=state(m)),
        on_validation_start=lambda t, m: seen.update(fast=state(m)),
        on_train_epoch_end=lambda t, m: seen.update(after=state(m)),
    )
    keep = ModelCheckpoint(tmp_path, filename="best", monitor="val/accuracy", mode="max", save_last=True)
    loop = trainer(max_epochs=1, enable_checkpointing=True, callbacks=[watch, keep])
    loop.fit(model, datamodule=data)
    slow = {name: value for name, value in seen["start"].items() if value.is_floating_point()}
    weights = "network.groups.0.weight"
    assert not torch.equal(seen["fast"][weights], slow[weights])  # one step after the last update
    assert_equal(seen["fast"], seen["after"])  # validation gave them back
    for path in ("best.ckpt", "last.ckpt"):
        content = torch.load(tmp_path / path, weights_only=True)
        assert_equal({name: content["state_dict"][name] for name in slow}, slow)
        assert torch.equal(content["lookahead_fast"]["groups.0.weight"], seen["fast"][weights])
    assert_equal({name: model.state_dict()[name] for name in slow}, slow)
    with torch.no_grad():
        images, labels = next(iter(TensorBatches(data.parts["val"], 40)))
        images = ((images / 255 - 0.5) / 0.25).float()
        expected = (model.eval()(images).argmax(1) == labels).double().mean().item()
    assert loop.callback_metrics["val/accuracy"].item() == pytest.approx(expected)
    loop.test(model, datamodule=data, verbose=False, ckpt_path=str(tmp_path / "best.ckpt"), weights_only=True)
    assert_equal({name: model.state_dict()[name] for name in slow}, slow)


def test_lookahead_works_with_a_gradient_scaler() -> None:
    plugin = Precision("16-mixed", force_fp16_on_cpu=True, init_scale=1024.0).on("cpu").plugin
    model = recipe()
    loop = trainer(max_epochs=2, plugins=[plugin])
    loop.fit(model, datamodule=Patterns())
    assert all(value.dtype is torch.float32 for value in model.state_dict().values() if value.is_floating_point())
    assert math.isfinite(loop.callback_metrics["val/loss"].item())


def test_evaluation_averages_the_views() -> None:
    data, model = Patterns(), recipe(lookahead=None)
    loop = trainer()
    loop.validate(model, datamodule=data, verbose=False)
    with torch.no_grad():
        images, labels = data.parts["val"]
        logits = mean_logits(model.network.eval(), ((images / 255 - 0.5) / 0.25).float(), 2)
    assert loop.callback_metrics["val/loss"].item() == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)
