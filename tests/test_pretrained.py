"""A NeuMF that begins with the runs of its parts, named by their ids in MLflow."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from mlflow.entities import Run

from trilab.callbacks.identity import read_checkpoint
from trilab.cli import main

pytestmark = pytest.mark.slow  # runs through the command line
SMALL = ["experiment=recsys/neumf_movielens_1m", "model.network.factors=4", "trainer.max_epochs=1",
         "data.batch_size=8", "tracking.system_metrics=false"]  # fmt: skip


_COUNT = count()


def trilab(*arguments: str) -> int:
    # Runs of one process within a second would share a folder, which runs of a user's cannot.
    with pytest.raises(SystemExit) as raised:
        main(["train", *SMALL, f"paths.outputs=outputs_{next(_COUNT)}", *arguments])
    return int(raised.value.code or 0)


@pytest.fixture
def parts(runs: Callable[[], list[Run]]) -> dict[str, str]:
    """A run of each part, by the name of its model."""
    assert trilab("model=recsys/gmf") == 0
    assert trilab("model=recsys/ncf_mlp") == 0
    by_model = {run.data.tags["trilab.model"]: run.info.run_id for run in runs()}
    return {"gmf": by_model["recsys/gmf"], "mlp": by_model["recsys/ncf_mlp"]}


def network(path: Path) -> dict[str, torch.Tensor]:
    state = read_checkpoint(path, "checkpoint")["state_dict"]
    return {name.removeprefix("network."): value for name, value in state.items()}


def test_a_neumf_begins_with_its_parts_and_leaves_nothing_behind(parts, runs, workdir: Path):
    named = [f"model.pretrained_{name}={run}" for name, run in parts.items()]
    still = ["optimizer=sgd", "optimizer.lr=1e-30", "optimizer.momentum=0", "optimizer.nesterov=false"]
    assert trilab(*named, *still) == 0
    run = runs()[-1]
    assert run.data.params["model.pretrained_gmf"] == parts["gmf"]
    assert not list(workdir.rglob("pretrained"))
    best = {name: next((workdir / "mlartifacts").rglob(f"{id_}/artifacts/checkpoints/*.ckpt"))
            for name, id_ in {**parts, "neumf": run.info.run_id}.items()}  # fmt: skip
    gmf, mlp, neumf = (network(best[name]) for name in ("gmf", "mlp", "neumf"))
    assert torch.equal(neumf["table.weight"], torch.cat([gmf["table.weight"], mlp["table.weight"]], 1))
    assert torch.allclose(neumf["head.weight"], 0.5 * torch.cat([gmf["head.weight"], mlp["head.weight"]], 1))
    assert torch.allclose(neumf["head.bias"], 0.5 * (gmf["head.bias"] + mlp["head.bias"]))

    # A test of it needs no more than its own checkpoint: the runs of its parts may be gone.
    for name in ("gmf", "mlp"):
        best[name].unlink()
    with pytest.raises(SystemExit) as raised:
        main(["evaluate", f"run={run.info.run_id}"])
    assert not raised.value.code


def test_what_cannot_be_begun_with_is_said_before_a_run_is_opened(
    parts, runs, workdir: Path, capsys: pytest.CaptureFixture[str]
):
    before = len(runs())
    gmf, mlp = parts["gmf"], parts["mlp"]
    for arguments, message in {
        (f"model.pretrained_gmf={gmf}",): "model.pretrained_mlp=null: both parts",
        ("model.pretrained_gmf=nonsense", f"model.pretrained_mlp={mlp}"): "expected the id of a run",
        (f"model.pretrained_gmf={'0' * 32}", f"model.pretrained_mlp={mlp}"): f"pretrained_gmf={'0' * 32}: no such run",
        (f"model.pretrained_gmf={gmf}", f"model.pretrained_mlp={mlp}", "data=recsys/movielens_100k"):
            "it was trained on data=recsys/movielens_1m",
    }.items():  # fmt: skip
        assert trilab(*arguments) == 2
        error = capsys.readouterr().err
        assert message in error, error
    assert len(runs()) == before
    assert trilab(f"model.pretrained_gmf={mlp}", f"model.pretrained_mlp={gmf}") == 1
    assert "pretrained GMF" in capsys.readouterr().err
    assert [run.info.status for run in runs()].count("FAILED") == 1
    assert not list(workdir.rglob("pretrained"))
