import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_folder import COUNTS, image_folder, ready, write_image, write_set
from PIL import Image

from trilab.data.vision.decode import Decoding
from trilab.data.vision.image_folder import split
from trilab.errors import ConfigError, UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


def fault(root: Path, **changes) -> str:
    with pytest.raises(UserError) as error:
        ready(root, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def read_all(root: Path, **changes) -> None:
    data = ready(root, **changes)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        list(loader)


def test_reads_what_was_written(root):
    data = ready(root, validation=0)
    assert data.classes == ("cat", "dog")
    assert (data.spec.channels, data.spec.height, data.spec.width, data.spec.classes) == (3, 6, 8, 2)
    images, labels = next(iter(data.test_dataloader()))
    expected = np.stack([np.asarray(Image.open(path)) for path in sorted((root / "test").rglob("*.png"))])
    assert np.allclose(images.permute(0, 2, 3, 1).numpy(), (expected / 255 - 0.5) / 0.25, atol=1e-5)
    assert labels.tolist() == [0] * 8 + [1] * 7
    assert torch.bincount(data.parts["train"][1]).tolist() == [30, 20]


def test_other_files_and_hidden_folders_are_no_part_of_it_but_subfolders_are(root):
    (root / "train" / ".git").mkdir()
    (root / "train" / "README.txt").write_text("about")
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "train" / "cat" / "notes.txt").write_text("about")
    write_image(root / "train" / "cat" / "more" / "A.PNG")
    assert torch.bincount(ready(root, validation=0).parts["train"][1]).tolist() == [31, 20]


def test_without_a_test_folder_a_share_of_each_class_is_split_off(root):
    shutil.rmtree(root / "test")
    data = ready(root, validation=0, seed=5)
    assert torch.bincount(data.parts["test"][1]).tolist() == [6, 4]
    assert torch.bincount(data.parts["train"][1]).tolist() == [24, 16]

    def keys(part):
        return {pixels.numpy().tobytes() for pixels in data.parts[part][0]}

    assert not keys("train") & keys("test")
    other = ready(root, validation=0, seed=6)
    assert torch.equal(other.parts["test"][0], data.parts["test"][0])
    assert not torch.equal(ready(root, split_seed=2).parts["test"][0], data.parts["test"][0])


def test_the_root_itself_may_have_the_class_folders(root):
    shutil.move(root / "train" / "cat", root / "cat")
    shutil.move(root / "train" / "dog", root / "dog")
    (root / "train").rmdir()
    assert "Set data.train=. where" in fault(root)
    data = ready(root, train=".", validation=0)
    assert data.classes == ("cat", "dog")
    assert len(data.parts["test"][1]) == 15


def test_split_takes_the_nearest_share_and_leaves_one_image_at_least():
    labels = np.array([0] * 10 + [1] * 2 + [2] * 7)
    rows, held = split(labels, 0.3, 0, ("a", "b", "c"), Path("x"))
    assert np.bincount(labels[held]).tolist() == [3, 1, 2]
    assert sorted([*rows, *held]) == list(range(19))
    with pytest.raises(UserError, match="x: class 'b' has a single image"):
        split(np.array([0, 0, 1]), 0.5, 0, ("a", "b"), Path("x"))


# Decoding


def test_grey_and_colour_files_become_what_is_asked_for(tmp_path):
    colour = write_image(tmp_path / "c.png")
    grey = write_image(tmp_path / "g.png", mode="L")
    Image.fromarray(grey).convert("P").save(tmp_path / "p.png")
    Image.fromarray(colour).convert("RGBA").save(tmp_path / "a.png")
    rgb, luma = Decoding("rgb", None), Decoding("grey", None)
    assert np.array_equal(rgb(tmp_path / "c.png"), colour)
    assert np.array_equal(rgb(tmp_path / "a.png"), colour)
    for name in ("g.png", "p.png"):
        assert np.array_equal(rgb(tmp_path / name), np.repeat(grey[..., None], 3, 2))
        assert np.array_equal(luma(tmp_path / name)[..., 0], grey)
    # ITU-R 601-2: L = 0.299 R + 0.587 G + 0.114 B
    expected = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma(tmp_path / "c.png")[..., 0] - expected).max() <= 1


def test_resizing_keeps_the_square_in_the_middle(tmp_path):
    array = np.zeros((4, 12, 3), np.uint8)
    array[:, 4:8] = 200  # just the square in the middle
    Image.fromarray(array).save(tmp_path / "i.png")
    assert (Decoding("rgb", 4)(tmp_path / "i.png") == 200).all()
    enlarged = Decoding("rgb", 8)(tmp_path / "i.png")
    assert enlarged.shape == (8, 8, 3)
    assert (enlarged[:, 2:6] == 200).all()
    write_image(tmp_path / "n.png", (31, 7))
    assert Decoding("grey", 5)(tmp_path / "n.png").shape == (5, 5, 1)


def test_images_are_turned_upright(tmp_path):
    array = np.zeros((16, 32), np.uint8)
    array[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(array).save(tmp_path / "i.jpg", exif=exif)
    upright = Decoding("grey", None)(tmp_path / "i.jpg")[..., 0]
    assert upright.shape == (32, 16)
    assert upright[:14].max() < 60
    assert upright[18:].min() > 200


def test_storage_auto_goes_by_the_decoded_size(root, monkeypatch, capsys):
    assert "train" in ready(root, storage="auto").parts
    capsys.readouterr()
    monkeypatch.setattr("trilab.data.vision.image_folder._MB", 9359)  # 65 images of 144 bytes are 9,360
    data = ready(root, storage="auto", memory_limit_mb=1)
    assert "train" not in data.parts
    assert "more than data.memory_limit_mb=1" in capsys.readouterr().err


# What can be wrong


def test_wrong_folders_are_one_line(root, tmp_path):
    assert f"data.root={tmp_path / 'sett'}: there is no such folder. Did you mean 'set'?" in fault(tmp_path / "sett")
    text = fault(root, train="trian")
    assert "data.train=trian" in text
    assert "Did you mean 'train'?" in text
    for folder in (root / "train" / "bird", root / "train" / "bird.txt"):
        folder.mkdir()
        (folder / "a.txt").write_text("")
    assert f"{root / 'train' / 'bird'}: no images (.bmp, " in fault(root)
    for name in ("bird", "bird.txt"):
        shutil.rmtree(root / "train" / name)
    shutil.rmtree(root / "train" / "cat")
    assert "a single class folder, 'dog'" in fault(root)
    shutil.rmtree(root / "train" / "dog")
    assert "no class folders. Expected" in fault(root)


def test_train_and_test_must_have_the_same_classes(root):
    (root / "test" / "dog").rename(root / "test" / "dogs")
    assert f"{root / 'test'} has no class 'dog', which {root / 'train'} has. Did you mean 'dogs'?" in fault(root)
    (root / "test" / "dogs").rename(root / "test" / "dog")
    write_image(root / "test" / "bird" / "1.png")
    assert f"{root / 'train'} has no class 'bird', which {root / 'test'} has." in fault(root)


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_an_unreadable_image_is_named(root, storage):
    def said(workers):
        with pytest.raises(UserError) as error:
            read_all(root, storage=storage, workers=workers)
        assert "\n" not in str(error.value)
        return str(error.value)

    victim = root / "train" / "dog" / "007.png"
    victim.write_bytes(victim.read_bytes()[:60])
    assert f"{victim} cannot be read: " in said(0)
    victim.write_text("<html>not found</html>")
    assert said(0) == f"{victim} cannot be read: it is no image. Replace it, or delete it."
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(victim)
    assert "8 bits a channel are needed" in said(0)
    if storage == "stream":
        assert "8 bits a channel are needed" in said(1)


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_images_of_several_sizes_are_named_with_the_knob(root, storage):
    write_image(root / "train" / "dog" / "007.png", (10, 5))
    with pytest.raises(UserError) as error:
        read_all(root, storage=storage)
    text = str(error.value)
    for part in ("cat/000.png is 8x6", "dog/007.png is 10x5", "Set data.image_size=5"):
        assert part in text
    assert ready(root, image_size=6).spec.height == 6


def test_contradicting_settings_are_one_line(root):
    with pytest.raises(ConfigError, match=r"data.test_fraction=0: no images to test on"):
        ready(root, test=None, test_fraction=0.0)
    with pytest.raises(ConfigError, match=r"data.test=train: the same folder"):
        ready(root, test="train")
    with pytest.raises(ConfigError, match=r"data.mean: 3 values for images of 1 channels"):
        ready(root, mode="grey")
    assert image_folder(root).classes == ()
    assert sum(COUNTS["train"].values()) == 50


@pytest.mark.realdata
@pytest.mark.slow
def test_the_real_folder_of_jpegs(real_data, tmp_path):
    """Compared with the README of the set: 5,000 and 1,000 of each class, decoded mean 0.4913 0.4821 0.4465."""
    root = real_data / "cifar10-images"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    data = ready(root, cache=str(tmp_path), validation=0)
    pixels, labels = data.parts["train"]
    assert torch.bincount(labels).tolist() == [5000] * 10
    assert torch.bincount(data.parts["test"][1]).tolist() == [1000] * 10
    mean = pixels.double().mean((0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4913, 0.4821, 0.4465], dtype=torch.float64), atol=6e-5)
