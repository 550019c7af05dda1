"""Passwords and tokens reach neither the store nor the spool nor any other file of a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FEW_STEPS, SMALL
from mlflow_servers import Server, served

from trilab.cli import main
from trilab.tracking.secrets import redacted, without_secrets


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "spool"
    monkeypatch.setenv("TRILAB_SPOOL", str(folder))
    return folder


@pytest.fixture
def server(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    yield from served(workdir, monkeypatch)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:s3cret@host/x", "https://***@host/x"),
        ("https://me:p@ss@host/x", "https://***@host/x"),
        ("http://host/x?token=abc123&y=1", "http://host/x?token=***&y=1"),
        ("postgresql://host/db?password=abc", "postgresql://host/db?password=***"),
        ("tracking.uri=http://a:b@c tags.api_key=xyz seed=1", "tracking.uri=http://***@c tags.api_key=*** seed=1"),
        ("+tracking.tags.token='x y'", "+tracking.tags.token='*** y'"),
        ("model.num_tokens=50 data.pad_token=3 lr=0.1", "model.num_tokens=50 data.pad_token=3 lr=0.1"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)  # fmt: skip
def test_a_text_without_its_secrets(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_configuration_without_its_secrets() -> None:
    config = {"a": {"password": "x", "tokens": 3, "token": 5}, "b": ["http://u:p@h", 1], "c": None, "secret": None}
    assert without_secrets(config) == {
        "a": {"password": "***", "tokens": 3, "token": 5}, "b": ["http://***@h", 1], "c": None, "secret": None
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("away", [False, True])
def test_a_whole_store_and_spool_hold_no_secret(
    away: bool, server: Server, workdir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "hunter2-env")
    uri = server.uri.replace("//", "//user:hunter2-uri@")
    if away:
        server.stop()
    overrides = [f"tracking.uri={uri}", "+tracking.tags.api_key=hunter2-tag", "+tracking.tags.note=a-hunter2-env-b"]
    small = [
        *FEW_STEPS,
        *SMALL["recsys"],
        "experiment=recsys/deepfm_synthetic",
        f"tracking.wait_s={0.1 if away else 60}",
    ]
    with pytest.raises(SystemExit) as raised:
        main(["train", *small, *overrides, "tracking.system_metrics=false", "hydra.output_subdir=null"])
    assert raised.value.code == 0
    with pytest.raises(SystemExit) as raised:  # a traceback that quotes a secret
        main(["train", *small, *overrides, "model.embedding_dim=999999999999", "hydra.output_subdir=null"])
    assert raised.value.code != 0
    files = [path for path in workdir.rglob("*") if path.is_file()]
    assert any(path.name == "config.yaml" for path in files) != away
    assert any(path.suffix == ".ckpt" for path in files)
    for path in files:
        assert b"hunter2" not in path.read_bytes(), path
    shown = capfd.readouterr()
    assert "hunter2" not in shown.out + shown.err
