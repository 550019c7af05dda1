import numpy as np
import pytest
import torch

from trilab.config.check import check
from trilab.config.compose import compose
from trilab.data.vision.fake import FakeImages
from trilab.errors import ConfigError


def fake(**changes) -> FakeImages:
    arguments = {"channels": 2, "height": 9, "width": 7, "classes": 4, "train_images": 400, "test_images": 200,
                 "noise": 5.0, "prototype_seed": 1, "batch_size": 8, "eval_batch_size": 200, "validation": 100,
                 "seed": 1}  # fmt: skip
    data = FakeImages(**{**arguments, **changes})
    data.setup("fit")
    return data


def test_shapes_and_counts_are_those_asked_for():
    data = fake()
    assert (data.spec.channels, data.spec.height, data.spec.width, data.spec.classes) == (2, 9, 7, 4)
    assert {name: len(labels) for name, (_, labels) in data.parts.items()} == {"train": 300, "val": 100, "test": 200}
    assert torch.bincount(data.parts["test"][1]).tolist() == [50] * 4
    ((images, _),) = data.test_dataloader()
    assert abs(float(images.mean())) < 0.05
    assert abs(float(images.std()) - 1) < 0.05


def test_prototypes_are_smooth_of_mean_0_and_variance_1():
    prototypes = fake(height=32, width=32).prototypes()
    assert torch.allclose(prototypes.flatten(1).mean(1), torch.zeros(4), atol=1e-5)
    assert torch.allclose(prototypes.flatten(1).var(1, correction=0), torch.ones(4), atol=1e-4)
    assert float(prototypes.diff(dim=3).square().mean()) < 0.1  # of independent pixels: 2


def test_the_reference_is_the_nearest_prototypes_accuracy():
    data = fake()
    prototypes = data.prototypes().numpy()
    ((images, labels),) = data.test_dataloader()
    values = images.numpy() * np.sqrt(1 + 5.0**2)
    hits = 0
    for image, label in zip(values, labels.tolist(), strict=True):
        hits += np.argmin([((image - prototype) ** 2).sum() for prototype in prototypes]) == label
    assert data.reference == {"test/nearest_prototype_accuracy": pytest.approx(hits / 200)}
    assert 0.5 < data.reference["test/nearest_prototype_accuracy"] < 1
    assert fake(noise=0.0).reference["test/nearest_prototype_accuracy"] == 1


def test_seeds_are_independent_of_counts_and_of_each_other():
    data = fake()
    assert torch.equal(fake(train_images=101).parts["test"][0], data.parts["test"][0])
    assert torch.equal(fake(seed=2).prototypes(), data.prototypes())
    assert not torch.equal(fake(seed=2).parts["test"][0], data.parts["test"][0])
    assert not torch.equal(fake(prototype_seed=2).prototypes(), data.prototypes())


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match=r"data.classes=1: to tell classes apart takes two"):
        fake(classes=1)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data=vision/mnist", "data.mean=[0.1,0.2]"], "2 values, where grey images have 1 channel."),
        (["data=vision/cifar10", "data.std=[0.1]"], "1 values, where colour images have 3 channels."),
        (["data=vision/cifar10_folder", "data.mode=grey"], "3 values, where data.mode=grey has 1 channel."),
        (["data=vision/image_folder", "data.root=x", "data.test=train"], "the same folder as data.train"),
        (["data=vision/image_folder", "data.root=x", "data.test=null", "data.test_fraction=0"], "no images to test on"),
        (["data=vision/image_folder"], "data.root: without a default"),
        (["data=vision/mnist", "data.augment.flip=alternate"], "Did you mean 'alternating'?"),
        (["data=vision/mnist", "data.augment.crop=-1"], "data.augment.crop=-1: expected a whole number >= 0."),
        (["data=vision/mnist", "data.augment.croop=1"], "data.augment.croop: no such key. Did you mean 'crop'?"),
    ],
)
def test_settings_are_checked_before_anything_is_read(overrides, said):
    with pytest.raises(ConfigError) as error:
        check(compose(["experiment=vision/mnist_cnn", *overrides]))
    assert said in str(error.value)
