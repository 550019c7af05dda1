"""Batches of image sets: the same from memory and from files, resumed, in the network's layout."""

from functools import partial

import psutil
import pytest
import pytorch_lightning as pl
import torch
import warm
from fake_folder import ready, write_set
from torch import nn

from trilab.data.vision import image_batches
from trilab.data.vision.augment import Augmentation
from trilab.data.vision.fake import FakeImages
from trilab.data.vision.image_batches import HeldPixels, ImageBatches, Normalization
from trilab.data.vision.layout import layout_of

ALL = Augmentation(crop=2, flip="alternating", cutout=3)


@pytest.fixture
def class_folders(tmp_path):
    """Makes the data module of a set of image files."""
    return partial(ready, write_set(tmp_path / "set"))


def fake(**changes) -> FakeImages:
    arguments = {"channels": 3, "height": 8, "width": 10, "classes": 3, "train_images": 50, "test_images": 20,
                 "noise": 1.0, "prototype_seed": 1, "batch_size": 8, "eval_batch_size": 16, "validation": 10,
                 "seed": 1, "augment": ALL}  # fmt: skip
    data = FakeImages(**{**arguments, **changes})
    data.setup("fit")
    return data


def equal(one, other) -> bool:
    one, other = list(one), list(other)
    return len(one) == len(other) and all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


def test_an_epoch_has_each_image_once_augmented_and_normalised():
    data = fake(batch_size=40)
    pixels, labels = data.parts["train"]
    ((images, given),) = data.train_dataloader()
    loader = data.train_dataloader()
    order = torch.randperm(40, generator=loader.generator(0))
    assert torch.equal(given, labels[order])
    draws = ALL.draw(order, 0, 1, 8, 10)
    expected = (ALL.pixels(pixels[order], draws).float() / 255 - 0.5) / (42.5 / 255)
    assert torch.allclose(images, ALL.images(expected, draws), atol=1e-5)
    assert sorted(given.tolist()) == sorted(labels.tolist())


def test_an_interrupted_epoch_goes_on_with_the_same_augmentation():
    whole = fake().train_dataloader()
    epochs = [list(whole) for _ in range(3)]
    assert not equal(epochs[0], epochs[1])
    stopped = fake().train_dataloader()
    list(stopped)
    iterator = iter(stopped)
    next(iterator), next(iterator)
    resumed = fake().train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    resumed.set_epoch(1)  # as Lightning does
    assert equal(resumed, epochs[1][2:])
    assert equal(resumed, epochs[2])


def test_only_training_images_are_augmented():
    plain, augmented = fake(augment=None), fake()
    assert equal(plain.val_dataloader(), augmented.val_dataloader())
    assert equal(plain.test_dataloader(), augmented.test_dataloader())
    assert not equal(plain.train_dataloader(), augmented.train_dataloader())


def test_without_validation_all_images_are_trained_on():
    data = fake(validation=0)
    assert data.val_dataloader() == []
    assert data.train_dataloader().rows == 50
    assert set(data.parts) == {"train", "test"}


def test_first_images_are_of_the_seed_alone_and_not_augmented():
    data = fake()
    first = data.first_images(7)
    pixels, _ = data.parts["train"]
    assert torch.allclose(first, (pixels[:7].float() / 255 - 0.5) / (42.5 / 255), atol=1e-5)
    list(data.train_dataloader())
    assert torch.equal(data.first_images(7), first)
    assert torch.equal(fake(batch_size=3, augment=None).first_images(7), first)
    assert data.first_images(5000).shape == (40, 3, 8, 10)
    assert not torch.equal(fake(seed=2).first_images(7), first)


def decoding_processes() -> list[psutil.Process]:
    return [child for child in warm.children() if child.status() != psutil.STATUS_ZOMBIE]


class Learner(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0])
        self.labels.append(batch[1])
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def trained(network: nn.Module, data, **settings) -> Learner:
    model = Learner(network)
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, **settings)  # fmt: skip
    trainer.fit(model, datamodule=data)
    return model


def conv_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 8, 3))


def test_batches_have_the_layout_of_the_networks_convolutions():
    last = trained(conv_net().to(memory_format=torch.channels_last), fake())
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in last.seen)
    first = trained(conv_net(), fake())
    assert all(images.is_contiguous() for images in first.seen)
    assert all(torch.equal(a, b) for a, b in zip(last.seen, first.seen, strict=True))
    assert len(first.seen) == 2 * 5
    assert layout_of(nn.Linear(3, 2).parameters()) == torch.contiguous_format


def test_overfit_batches_gives_the_same_images_in_each_epoch():
    seen = trained(conv_net(), fake(), overfit_batches=2).labels
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])


def test_what_a_device_has_no_room_for_stays_on_the_host(monkeypatch):
    monkeypatch.setattr(image_batches, "free_memory", lambda device: 1000)
    device = torch.device("meta")  # holds no numbers, but is another device than the host
    held = HeldPixels(torch.zeros(10, 1, 4, 25, dtype=torch.uint8))  # 1,000 bytes
    assert held.placed(device, torch.contiguous_format, 0.999).pixels.device.type == "cpu"
    assert held.placed(device, torch.contiguous_format, 1.0).pixels.device.type == "meta"
    batches = ImageBatches(
        held, torch.arange(10), 4, Normalization([0.5], [0.5], 4, 25, device), device, torch.contiguous_format
    )
    assert [images.device.type for images, _ in batches] == ["meta"] * 3


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stream_gives_the_batches_that_memory_gives(class_folders, workers):
    held = class_folders(storage="memory", augment=ALL)
    streamed = class_folders(storage="stream", workers=workers, augment=ALL)
    assert "train" not in streamed.parts
    state = torch.random.get_rng_state()
    loaders = [data.train_dataloader() for data in (held, streamed)]
    for _ in range(2):
        assert equal(*loaders)
    abandoned = [iter(loader) for loader in loaders]
    assert equal([next(abandoned[0])], [next(abandoned[1])])
    assert equal(*loaders)
    resumed = [data.train_dataloader() for data in (held, streamed)]
    for loader in resumed:
        loader.load_state_dict({"epoch": 1, "given": 2})
    assert equal(*resumed)
    assert equal(held.val_dataloader(), streamed.val_dataloader())
    assert equal(held.test_dataloader(), streamed.test_dataloader())
    assert torch.equal(held.first_images(9), streamed.first_images(9))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bool(decoding_processes()) == (workers > 0)
    streamed.teardown("fit")
    assert not decoding_processes()


@pytest.mark.slow
def test_training_from_a_stream_leaves_no_process(class_folders):
    data = class_folders(storage="stream", workers=2)
    trained(nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 8, 2)), data, limit_train_batches=1)
    assert not decoding_processes()
