import hashlib
import pickle
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from trilab.data.vision.cifar import Cifar
from trilab.errors import UserError


def write(folder: Path, monkeypatch, kind) -> dict[str, np.ndarray]:
    """A small set of the published format, with its own sums in place of the published ones."""
    rng = np.random.default_rng(0)
    key, classes = ("labels", 10) if kind is CIFAR10 else ("fine_labels", 100)
    folder.mkdir(parents=True)
    written, sums = {}, {}
    for name, _ in [*kind.train_list, *kind.test_list]:
        written[name] = rng.integers(0, 256, (12, 3072), dtype=np.uint8)
        content = pickle.dumps({"data": written[name], key: [i * 7 % classes for i in range(12)]})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    content = pickle.dumps({kind.meta["key"]: [str(i) for i in range(classes)]})
    (folder / kind.meta["filename"]).write_bytes(content)
    for listed in ("train_list", "test_list"):
        monkeypatch.setattr(kind, listed, [[name, sums[name]] for name, _ in getattr(kind, listed)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": hashlib.md5(content).hexdigest()})
    return written


def make(root: Path, **changes) -> Cifar:
    arguments = {"dataset": "cifar10", "root": str(root), "download": False, "batch_size": 8, "eval_batch_size": 12,
                 "validation": 10, "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1], "seed": 1}  # fmt: skip
    return Cifar(**{**arguments, **changes})


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("dataset", "kind", "batches"), [("cifar10", CIFAR10, 5), ("cifar100", CIFAR100, 1)])
def test_reads_what_was_written(tmp_path, monkeypatch, dataset, kind, batches):
    written = write(tmp_path / kind.base_folder, monkeypatch, kind)
    data = make(tmp_path, dataset=dataset)
    data.prepare_data()
    data.setup("fit")
    classes = 10 if dataset == "cifar10" else 100
    assert (data.spec.channels, data.spec.height, data.spec.width, data.spec.classes) == (3, 32, 32, classes)
    ((images, labels),) = data.test_dataloader()
    name = kind.test_list[0][0]
    expected = written[name].reshape(12, 3, 32, 32) / 255  # the file: all of red, then of green, then of blue
    expected = (expected - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([0.3, 0.2, 0.1])[:, None, None]
    assert np.allclose(images.numpy(), expected, atol=1e-5)
    assert labels.tolist() == [i * 7 % classes for i in range(12)]
    assert (data.train_dataloader().rows, data.val_dataloader().rows) == (12 * batches - 10, 10)


def test_missing_files_are_named_with_where_to_get_and_put_them(tmp_path, monkeypatch):
    write(tmp_path / CIFAR10.base_folder, monkeypatch, CIFAR10)
    (tmp_path / CIFAR10.base_folder / "data_batch_3").unlink()
    with pytest.raises(UserError) as error:
        make(tmp_path).prepare_data()
    text = one_line(error)
    for part in ("data_batch_3 not found", "data.download is false", CIFAR10.url, str(tmp_path), "TRILAB_DATA_DIR"):
        assert part in text
    assert "data_batch_2" not in text


def test_offline_download_fails_with_the_same_line(tmp_path, monkeypatch):
    def offline(self):
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(CIFAR10, "download", offline)
    with pytest.raises(UserError) as error:
        make(tmp_path, download=True).prepare_data()
    text = one_line(error)
    assert "name resolution" in text
    assert f"unpack it in {tmp_path}" in text
    assert not (tmp_path / CIFAR10.base_folder).exists()


@pytest.fixture
def served(tmp_path):
    """The address at which the files of the test's folder can be fetched."""
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def test_a_download_is_checked_and_unpacked(tmp_path, monkeypatch, served):
    made = tmp_path / "made"
    write(made / CIFAR10.base_folder, monkeypatch, CIFAR10)
    archive = tmp_path / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(made / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "url", f"{served}/{archive.name}")
    with pytest.raises(UserError, match=r"the download failed \(File not found or corrupted"):
        make(tmp_path / "other", download=True).prepare_data()
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    data = make(tmp_path / "root", download=True)
    data.prepare_data()
    data.setup("fit")
    assert len(data.parts["train"][1]) == 50


def test_a_corrupt_batch_is_named_and_never_unpickled(tmp_path, monkeypatch):
    folder = tmp_path / CIFAR10.base_folder
    write(folder, monkeypatch, CIFAR10)
    (folder / "data_batch_2").write_bytes(b"cos\nsystem\n(S'touch bad'\ntR.")
    monkeypatch.setattr(pickle, "load", None)
    data = make(tmp_path)
    data.prepare_data()
    with pytest.raises(UserError) as error:
        data.setup("fit")
    text = one_line(error)
    for part in (str(folder / "data_batch_2"), "is corrupt", "Delete it", CIFAR10.url):
        assert part in text


def test_labels_are_int64(tmp_path, monkeypatch):
    write(tmp_path / CIFAR10.base_folder, monkeypatch, CIFAR10)
    data = make(tmp_path)
    data.setup("fit")
    pixels, labels = data.parts["train"]
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (50, 3, 32, 32)
    assert labels.dtype == torch.int64
