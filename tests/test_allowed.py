"""What a configuration from a store may build, and that nothing else is even imported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow.entities import Run
from test_train import small, trilab

from trilab.config.allowed import check_stored, is_allowed
from trilab.errors import ConfigError

CONF = Path(__file__).parents[1] / "conf"


def targets(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [t for value in node.values() for t in targets(value)]
    return [t for item in node for t in targets(item)] if isinstance(node, list) else []


def test_all_that_conf_names_is_allowed():
    named = {
        target
        for path in CONF.rglob("*.yaml")
        if "hydra" not in path.relative_to(CONF).parts
        for target in targets(yaml.safe_load(path.read_text()))
    }
    assert len(named) > 30
    assert not [target for target in named if not is_allowed(target)]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "hydra.utils.instantiate",
        "torch.load",
        "torch.hub.load",
        "trilab.cli.main",
        "trilab.runtime.os.system",  # by way of a module of ours
        "trilab.data.vision.torchvision_images.Path",
        "trilab.files.save",
        "trilab.data.recsys.movielens.leave_one_out",  # a function
        "torch.optim.adam.torch.load",
        "trilabx.data.Evil",
        "trilab.data",
        "trilab",
        "pytorch_lightning.callbacks.on_the_fly.os.system",
    ],
)
def test_what_is_not_meant_to_be_built_is_refused(target: str):
    assert not is_allowed(target)


def planted(node: Any) -> list[Any]:
    return [
        {"trainer": node},
        {"callbacks": {"mine": node}},
        {"model": {"network": {"_target_": "trilab.models.vision.mlp.MLP", "_partial_": True, "hidden": node}}},
        {"model": {"_target_": "torch.optim.Adam", "_args_": [node]}},
        {"data": {"augment": [[node]]}},
    ]


@pytest.mark.parametrize("target", ["os.system", " os.system", "os..system", 3, None, ["os", "system"]])
def test_a_planted_target_is_found_anywhere(target: Any):
    for config in planted({"_target_": target, "_args_": ["touch sprung"]}):
        with pytest.raises(ConfigError, match=r"^run=1: .*_target_="):
            check_stored(config, "run=1")


@pytest.mark.parametrize("text", ["${oc.env:AWS_SECRET_ACCESS_KEY}", "a ${seed}", "${oc.decode:'${x}'}"])
def test_what_would_be_resolved_here_is_refused(text: str):
    for config in planted(text):
        with pytest.raises(ConfigError, match="would be resolved on this machine"):
            check_stored(config, "run=1")


def test_the_user_s_own_packages_are_allowed_where_the_user_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_models.py").write_text("import os\nfrom os import path\nclass Net: ...\ndef make(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_allowed("my_models.Net")
    monkeypatch.setenv("TRILAB_ALLOW", " other , my_models")
    assert is_allowed("my_models.Net")
    assert is_allowed("my_models.make")
    assert not is_allowed("my_models.os.system")
    assert not is_allowed("my_models.path")
    assert not is_allowed("my_modelsx.Net")
    with pytest.raises(ConfigError, match=r"my_models\. If you trust it: TRILAB_ALLOW=os\."):
        check_stored({"_target_": "os.system"}, "run=1")


@pytest.mark.slow
def test_no_command_runs_a_run_that_something_was_planted_in(
    runs: Callable[[], list[Run]],
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    assert trilab("train", *small("vision/mnist_cnn"), "model=vision/mlp") == 0
    run = runs()[0].info.run_id
    monkeypatch.syspath_prepend(str(workdir))  # so that it could be imported
    (workdir / "trap.py").write_text("import pathlib\npathlib.Path('sprung').touch()\nclass Trap: ...\n")
    stored = next((workdir / "mlartifacts").rglob("config.yaml"))
    config = yaml.safe_load(stored.read_text())
    config["callbacks"]["trap"] = {"_target_": "trap.Trap"}
    stored.write_text(yaml.safe_dump(config))
    checkpoint = next((workdir / "outputs").rglob("best.ckpt"))
    content = torch.load(checkpoint, weights_only=True)
    content["trilab"]["config"] = config
    torch.save(content, workdir / "bad.ckpt")
    for arguments in (
        ["evaluate", f"run={run}"],
        ["evaluate", "checkpoint=bad.ckpt"],
        ["predict", f"run={run}", "input=trap.py", "output=out.csv"],
        ["reproduce", run],
        ["resume", run],
        ["register", run, "--name", "bad"],
        ["serve", run],
    ):
        capfd.readouterr()
        assert trilab(*arguments) == 2
        said = capfd.readouterr().err
        assert said.count("\n") == 1, said
        assert "callbacks.trap._target_=trap.Trap is not allowed in a configuration from a store" in said
        assert not (workdir / "sprung").exists()
    assert len(runs()) == 1
