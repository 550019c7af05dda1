import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from trilab.data.vision.image_batches import Normalization
from trilab.data.vision.torchvision_images import TorchvisionImages
from trilab.errors import ConfigError, UserError

FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def idx(array: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {}
    for part, n in (("train", 50), ("t10k", 20)):
        made[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28))
        made[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, n)
    return made


@pytest.fixture
def folder(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Path:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in arrays.items():
        (raw / name).write_bytes(idx(array))
    return raw


def make(root: Path, **changes) -> TorchvisionImages:
    arguments = {"dataset": "mnist", "root": str(root), "download": False, "batch_size": 8, "eval_batch_size": 16,
                 "validation": 10, "mean": [0.1], "std": [0.3], "seed": 1}  # fmt: skip
    return TorchvisionImages(**{**arguments, **changes})


def ready(root: Path, **changes) -> TorchvisionImages:
    data = make(root, **changes)
    data.prepare_data()
    data.setup("fit")
    data.setup("fit")  # Lightning calls it again
    return data


def test_reads_what_was_written(tmp_path, folder, arrays):
    data = ready(tmp_path)
    assert (data.spec.channels, data.spec.height, data.spec.width, data.spec.classes) == (1, 28, 28, 10)
    images, labels = next(iter(data.test_dataloader()))
    assert images.shape == (16, 1, 28, 28)
    assert images.dtype == torch.float32
    expected = (arrays["t10k-images-idx3-ubyte"][:16, None] / 255 - 0.1) / 0.3
    assert np.allclose(images.numpy(), expected, atol=1e-6)
    assert labels.tolist() == arrays["t10k-labels-idx1-ubyte"][:16].tolist()
    assert data.reference == {}


def test_validation_is_held_out_of_training_by_seed(tmp_path, folder, arrays):
    def keys(loader):
        return {
            (tuple(image.flatten().tolist()), int(label))
            for batch in loader
            for image, label in zip(*batch, strict=True)
        }

    data = ready(tmp_path)
    train, held_out = keys(data.train_dataloader()), keys(data.val_dataloader())
    assert (len(train), len(held_out)) == (40, 10)
    assert not train & held_out
    assert keys(ready(tmp_path).val_dataloader()) == held_out
    assert keys(ready(tmp_path, seed=2).val_dataloader()) != held_out


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalization_by_channel(layout):
    pixels = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8).contiguous(memory_format=layout)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    result = Normalization(mean, std, 5, 6, layout=layout)(pixels)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=layout)
    for channel in range(3):
        expected = (pixels[:, channel].double() / 255 - mean[channel]) / std[channel]
        assert torch.allclose(result[:, channel].double(), expected, atol=1e-6)


def test_wrong_settings_are_one_clear_line(tmp_path, folder):
    with pytest.raises(ConfigError, match=r"data.validation=50: .* Allowed: 0 to 49"):
        ready(tmp_path, validation=50)
    with pytest.raises(ConfigError, match=r"data.mean: 3 values for images of 1 channels"):
        ready(tmp_path, mean=[0.1, 0.2, 0.3])


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_missing_files_are_named_with_where_to_get_and_put_them(tmp_path, folder):
    (folder / FILES[0]).unlink()
    with pytest.raises(UserError) as error:
        make(tmp_path).prepare_data()
    text = one_line(error)
    assert FILES[0] in text
    assert FILES[1] not in text
    for part in ("https://", ".gz", str(folder), "TRILAB_DATA_DIR", "MNIST/raw", "data.download is false"):
        assert part in text


def test_offline_download_fails_with_the_same_line(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    def offline(self):
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(MNIST, "download", offline)
    with pytest.raises(UserError) as error:
        make(tmp_path, download=True).prepare_data()
    text = one_line(error)
    assert "name resolution" in text
    assert all(name in text for name in FILES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (FILES[0], idx(np.zeros((50, 28, 28)))[:1000], r"1,000 bytes, where its header \(50x28x28\) asks for 39,216"),
        (FILES[0], idx(np.zeros((50, 28, 28))) + b"x", "39,217 bytes"),
        (FILES[2], b"<html>not found</html>", "begins with 0x3c68746d"),
        (FILES[3], b"\0\0", "2 bytes, less than the 8 of its header"),
        (FILES[1], idx(np.zeros((0,))), "empty"),
        (FILES[1], idx(np.zeros(49)), "49 labels for 50 images"),
        (FILES[1], idx(np.full(50, 200)), "a label 200, where 0 to 9 are allowed"),
    ],
)
def test_a_corrupt_file_is_named(tmp_path, folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        ready(tmp_path)
    text = one_line(error)
    assert str(folder / name) in text
    assert "Delete it" in text


@pytest.mark.realdata
@pytest.mark.parametrize(("dataset", "name"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_the_real_files(dataset, name):
    root = os.environ.get("TRILAB_DATA_DIR")
    if not root:
        pytest.skip("TRILAB_DATA_DIR is not set")
    if not (Path(root) / name / "raw" / FILES[0]).is_file():
        pytest.skip(f"no {name}/raw/{FILES[0]} in TRILAB_DATA_DIR={root}")
    data = ready(Path(root), dataset=dataset, validation=5000, eval_batch_size=10_000)
    assert (data.train_dataloader().rows, data.val_dataloader().rows) == (55_000, 5_000)
    (_, labels), *_ = data.test_dataloader()
    if dataset == "mnist":
        assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert labels.bincount().sum() == 10_000
