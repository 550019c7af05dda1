import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_folder import ready, write_image, write_set

from trilab.data.vision import image_cache
from trilab.data.vision.decode import Decoding
from trilab.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


def folders_of(cache: Path) -> list[Path]:
    return sorted(path for path in cache.glob("images-*") if path.is_dir())


def test_decoded_once_and_found_again(root, monkeypatch, capsys):
    first = ready(root)
    assert "decoding 50 images" in capsys.readouterr().err
    cache = root.parent / "cache"
    assert len(folders_of(cache)) == 2
    meta = json.loads((folders_of(cache)[0] / "meta.json").read_text())
    assert meta["classes"] in ({"cat": 30, "dog": 20}, {"cat": 8, "dog": 7})

    def never(*arguments):
        raise AssertionError("decoded, or read, again")

    monkeypatch.setattr(image_cache, "_make", never)
    monkeypatch.setattr(image_cache, "_content_key", never)
    again = ready(root)
    assert torch.equal(again.parts["train"][0], first.parts["train"][0])
    assert capsys.readouterr().err == ""


def test_the_same_content_elsewhere_or_touched_is_the_same_set(root, monkeypatch):
    first = ready(root)
    monkeypatch.setattr(image_cache, "_make", None)
    for path in root.rglob("*.png"):
        os.utime(path, (1, 1))
    assert torch.equal(ready(root).parts["train"][0], first.parts["train"][0])
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    assert torch.equal(ready(copy).parts["train"][0], first.parts["train"][0])


def test_an_edited_image_or_another_setting_is_decoded_anew(root):
    ready(root)
    cache = root.parent / "cache"
    changed = write_image(root / "test" / "cat" / "000.png", seed=999)
    data = ready(root)
    assert np.array_equal(data.parts["test"][0][0].permute(1, 2, 0).numpy(), changed)
    assert len(folders_of(cache)) == 3
    ready(root, image_size=4)
    assert len(folders_of(cache)) == 5
    ready(root, mode="grey", mean=[0.5], std=[0.25])
    assert len(folders_of(cache)) == 7


def damage_version(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "format": 0}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_version, "written in format 0 by another version of trilab"),
        (lambda folder: (folder / "meta.json").write_text("{"), "meta.json cannot be read"),
        (lambda folder: (folder / "pixels.npy").write_bytes(b"x" * 200), "pixels.npy is not as it was written"),
        (lambda folder: (folder / "pixels.npy").unlink(), "pixels.npy is not as it was written"),
    ],
)
def test_a_damaged_cache_is_made_anew(root, capsys, damage, said):
    first = ready(root).parts["train"][0].clone()
    for folder in folders_of(root.parent / "cache"):
        damage(folder)
    capsys.readouterr()
    assert torch.equal(ready(root).parts["train"][0], first)
    assert said in capsys.readouterr().err


def test_an_interrupted_decoding_leaves_nothing(root, monkeypatch):
    class Stop(BaseException):
        pass

    def stop(*arguments):
        raise Stop

    cache = root.parent / "cache"
    with monkeypatch.context() as patched:
        patched.setattr(Decoding, "all", stop)
        with pytest.raises(Stop):
            ready(root)
    assert folders_of(cache) == []
    killed = cache / f"{next(cache.glob('images-*.lock')).stem}.part-1"  # as after a power cut
    killed.mkdir()
    ready(root)
    assert not killed.exists()


def test_without_a_cache_nothing_is_written(root):
    with_cache = ready(root).parts["train"][0]
    shutil.rmtree(root.parent / "cache")
    assert torch.equal(ready(root, cache=None).parts["train"][0], with_cache)
    assert not (root.parent / "cache").exists()


def test_a_cache_that_cannot_be_written_is_one_line(root):
    (root.parent / "file").write_text("")
    with pytest.raises(UserError, match=r"^data.cache=.*\.$"):
        ready(root, cache=str(root.parent / "file" / "cache"))
