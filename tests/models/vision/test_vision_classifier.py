import math
import os
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F

from trilab.data.batches import TensorBatches
from trilab.data.vision.spec import ImageSpec
from trilab.data.vision.torchvision_images import TorchvisionImages
from trilab.errors import ConfigError
from trilab.models.schedules import Constant, Linear
from trilab.models.vision.classifier import Classifier
from trilab.models.vision.mlp import MLP
from trilab.models.vision.mnist_cnn import MnistCNN

MNIST = ImageSpec(channels=1, height=28, width=28, classes=10)
TINY = ImageSpec(channels=3, height=10, width=12, classes=4)
NETWORKS = {"mnist_cnn": partial(MnistCNN, channels=(8, 8), hidden=16), "mlp": partial(MLP, hidden=(32,))}


def classifier(spec=TINY, network=NETWORKS["mlp"], lr=3e-3, schedule=None, **options) -> Classifier:
    torch.manual_seed(0)
    return Classifier(spec, partial(torch.optim.Adam, lr=lr), schedule or Constant(), network, **options)


def trainer(**options) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
             "enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0}  # fmt: skip
    return pl.Trainer(**{**quiet, **options})


def blobs(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise, whose label is the quarter that is brighter."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    images = torch.randn(n, 3, 10, 12, generator=generator)
    for quarter in range(4):
        top, left = 5 * (quarter // 2), 6 * (quarter % 2)
        images[labels == quarter, :, top : top + 5, left : left + 6] += 0.7
    return images, labels


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_networks_have_the_published_shapes():
    cnn, mlp = MnistCNN(MNIST), MLP(MNIST)
    assert parameters(cnn) == (9 * 32 + 32) + (9 * 32 * 64 + 64) + (1600 * 64 + 64) + (64 * 10 + 10) == 121_930
    assert parameters(mlp) == (784 * 128 + 128) + (128 * 10 + 10) == 101_770
    images = torch.randn(5, 1, 28, 28)
    assert cnn.features(images).shape == (5, 64, 5, 5)
    assert cnn(images).shape == mlp(images).shape == (5, 10)


def test_an_image_too_small_for_the_stages_is_a_clear_error():
    with pytest.raises(ConfigError, match=r"channels=\[8, 8, 8\]: 3 stages leave nothing of an image of 10x12"):
        MnistCNN(TINY, channels=[8, 8, 8])


@pytest.mark.parametrize("network", NETWORKS)
def test_overfits_one_batch(network):
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(16, 3, 10, 12, generator=generator), torch.randint(0, 4, (16,), generator=generator)
    model = classifier(network=NETWORKS[network], lr=1e-2)
    trainer(max_epochs=60).fit(model, TensorBatches((images, labels), 16))
    with torch.no_grad():
        assert F.cross_entropy(model(images), labels) < 0.05 < math.log(4)


def test_metrics_are_means_over_all_images_whatever_the_batches():
    images, labels = blobs(50)
    model = classifier()
    loop = trainer()
    with torch.no_grad():
        logits = model(images)
    expected = {
        "loss": F.cross_entropy(logits, labels).item(),
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
    }
    loop.validate(model, TensorBatches((images, labels), 16), verbose=False)
    assert {name: loop.callback_metrics[f"val/{name}"].item() for name in expected} == pytest.approx(expected, abs=1e-5)
    loop.test(model, TensorBatches((images, labels), 7), verbose=False)
    assert {name: loop.callback_metrics[f"test/{name}"].item() for name in expected} == pytest.approx(
        expected, abs=1e-5
    )


def test_label_smoothing_is_the_papers_and_leaves_evaluation_alone():
    images, labels = blobs(32)
    model, share = classifier(label_smoothing=0.2), 0.2
    logs = model(images).log_softmax(1)
    target = (1 - share) * F.one_hot(labels, 4) + share / 4
    loop = trainer(max_epochs=1, limit_train_batches=1)
    expected = -(target * logs).sum(1).mean().item()
    plain = -logs[range(32), labels].mean().item()
    loop.validate(model, TensorBatches((images, labels), 32), verbose=False)
    assert loop.callback_metrics["val/loss"].item() == pytest.approx(plain, abs=1e-5)
    loop.fit(model, TensorBatches((images, labels), 32))
    assert loop.callback_metrics["train/loss"].item() == pytest.approx(expected, abs=1e-5)


def test_learns_more_than_the_majority_class():
    model, test = classifier(), blobs(1000, seed=1)
    loop = trainer(max_epochs=3)
    loop.fit(model, TensorBatches(blobs(2000), 64, shuffle=True, seed=0))
    loop.test(model, TensorBatches(test, 500), verbose=False)
    majority = test[1].bincount().max().item() / 1000
    assert loop.callback_metrics["test/accuracy"] > majority + 0.4


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_one_seed_one_result():
    def run(seed: int) -> torch.Tensor:
        model = classifier(network=NETWORKS["mnist_cnn"])
        trainer(max_epochs=2).fit(model, TensorBatches(blobs(200), 32, shuffle=True, seed=seed))
        return weights(model)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize(("step", "schedule"), [(7, Linear()), (10, Linear())])
def test_resumed_equals_never_stopped(tmp_path, step, schedule):
    """Interrupted in the middle of the second epoch of five batches, and at its end."""

    def fit(**options) -> Classifier:
        model = classifier(schedule=schedule)
        data = TensorBatches(blobs(160), 32, shuffle=True, seed=4)
        checkpoint = options.pop("ckpt_path", None)
        loop = trainer(max_epochs=3, enable_checkpointing=True, **options)
        loop.fit(model, data, **({"ckpt_path": checkpoint, "weights_only": True} if checkpoint else {}))
        return model

    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=step, save_top_k=-1)
    whole = fit(callbacks=[keep])
    resumed = fit(ckpt_path=str(tmp_path / f"step={step}.ckpt"), callbacks=[ModelCheckpoint(tmp_path / "other")])
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.slow
@pytest.mark.realdata
def test_mnist_in_three_hundred_steps():
    root = os.environ.get("TRILAB_DATA_DIR")
    if not root:
        pytest.skip("TRILAB_DATA_DIR is not set")
    if not (Path(root) / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip(f"no MNIST/raw/train-images-idx3-ubyte in TRILAB_DATA_DIR={root}")
    data = TorchvisionImages("mnist", root, False, 64, 2000, 5000, [0.1307], [0.3081], seed=1)
    data.setup("fit")
    model = classifier(data.spec, MnistCNN, schedule=Linear(warmup=0.1))
    loop = trainer(max_epochs=1, limit_train_batches=300)
    loop.fit(model, datamodule=data)
    loop.test(model, datamodule=data, verbose=False)
    assert loop.callback_metrics["test/accuracy"] >= 0.95
