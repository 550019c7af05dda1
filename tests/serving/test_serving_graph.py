"""Programs as files: what comes out is what went in, and nothing that could run code is read."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import conftest
import pytest
import torch
from torch import Tensor, nn

from trilab.config.catalog import catalog
from trilab.config.compose import compose_unchecked
from trilab.config.job import Job
from trilab.errors import UserError
from trilab.lightning import assemble
from trilab.serving.graph import load_graph, save_graph
from trilab.serving.programs import program_of
from trilab.serving.trained import _contract


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.pt2"
    save_graph(Small(), (torch.zeros(2, 3),), path)
    return path


def changed(file: Path, target: Path, record: str, content: bytes) -> Path:
    """A copy with one record more, or another content of it."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as archive:
        root = source.namelist()[0].partition("/")[0]
        for name in source.namelist():
            if name != f"{root}/{record}":
                archive.writestr(name, source.read(name))
        archive.writestr(f"{root}/{record}", content)
    return target


def record_of(file: Path, record: str) -> Any:
    with zipfile.ZipFile(file) as archive:
        root = archive.namelist()[0].partition("/")[0]
        return json.loads(archive.read(f"{root}/{record}"))


class Trap:
    """What unpickling would run."""

    def __reduce__(self) -> Any:
        return open, (str(Path.cwd() / "sprung"), "w")


def test_any_number_of_rows_gives_what_the_program_gives(tmp_path: Path):
    torch.manual_seed(0)
    program = Small()
    save_graph(program, (torch.zeros(2, 3),), tmp_path / "model.pt2")
    graph = load_graph(tmp_path / "model.pt2", "cpu")
    for rows in (1, 2, 5):
        x = torch.randn(rows, 3)
        assert torch.equal(graph(x), program(x))


def test_what_holds_a_pickle_is_refused_and_not_read(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    trap = io.BytesIO()
    torch.save(Trap(), trap)
    weights = record_of(file, "data/weights/model_weights_config.json")
    for meta in weights["config"].values():
        meta["use_pickle"] = True
    for record, content in {
        "data/sample_inputs/model.pt": trap.getvalue(),
        "data/weights/model.pt": trap.getvalue(),
        "data/constants/model.pt": trap.getvalue(),
        "data/constants/opaque_obj_0": pickle.dumps(Trap()),
        "data/constants/custom_obj_0": pickle.dumps(Trap()),
        "data/weights/model_weights_config.json": json.dumps(weights).encode(),
        "data/aotinductor/model/code.so": b"",
    }.items():
        bad = changed(file, tmp_path / "bad.pt2", record, content)
        with pytest.raises(UserError, match="is refused"):
            load_graph(bad, "cpu")
        assert not (tmp_path / "sprung").exists(), record


def test_a_size_that_is_code_is_refused(file: Path, tmp_path: Path):
    for expression in ("__import__('os').getcwd()", "Symbol.__class__", "open('x')", "s0.func"):
        model = record_of(file, "models/model.json")
        model["range_constraints"] = {"s0": {"min_val": 2, "max_val": None, "expr_str": expression}}
        bad = changed(file, tmp_path / "bad.pt2", "models/model.json", json.dumps(model).encode())
        with pytest.raises(UserError, match="is not the size of anything"):
            load_graph(bad, "cpu")


def test_what_is_no_archive_is_said_in_one_line(file: Path, tmp_path: Path):
    (tmp_path / "text.pt2").write_text("no archive")
    shutil.copy(file, tmp_path / "short.pt2")
    (tmp_path / "short.pt2").write_bytes(file.read_bytes()[:500])
    for name in ("text.pt2", "short.pt2", "nowhere.pt2"):
        with pytest.raises(UserError, match="not a graph that can be read") as raised:
            load_graph(tmp_path / name, "cpu")
        assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [option.name for option in catalog("experiment")])
def test_every_experiment_s_model_can_be_exported(experiment: str, workdir: Path, tmp_path: Path):
    overrides = [f"experiment={experiment}", *conftest.small(experiment)]
    config, choices = compose_unchecked(overrides)
    data, model = assemble([Job.of(config, choices, overrides)])
    contract = _contract(data, data.spec)
    program = program_of(model.eval(), data, data.spec)
    example = contract.frame_inputs(contract.example())
    save_graph(program, example, tmp_path / "model.pt2")
    graph = load_graph(tmp_path / "model.pt2", "cpu")
    for rows in (1, 2, 7):
        inputs = tuple(tensor[:1].repeat(rows, *[1] * (tensor.dim() - 1)) for tensor in example)
        with torch.inference_mode():
            torch.testing.assert_close(graph(*inputs), program(*inputs), rtol=1e-5, atol=1e-6)


class Convolution(nn.Module):
    """Its weights laid out as a run on images lays them out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def test_weights_in_channels_last_are_saved_whole_and_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    program, images = Convolution(), torch.randn(2, 3, 4, 4)
    save_graph(program, (images,), tmp_path / "model.pt2")
    assert not [warning for warning in recwarn if "complete tensor" in str(warning.message)]
    assert torch.equal(load_graph(tmp_path / "model.pt2", "cpu")(images), program(images))
