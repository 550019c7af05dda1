"""trilab's side of `recsys_throughput.py`: `trilab train` as a user runs it, and what it has logged and saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import recsys_neumf
from recsys_contenders import DIM, HIDDEN, auc
from recsys_data import overrides, read
from recsys_loops import BOTTOM, TOP

EXPERIMENT = "recsys/deepfm_synthetic"  # a start; all that matters is overridden
#: Arguments of the networks.
NETWORKS: dict[str, dict[str, Any]] = {
    "deepfm": {"dim": DIM, "hidden": list(HIDDEN)},
    "dlrm": {"dim": DIM, "bottom": list(BOTTOM[:-1]), "top": list(TOP)},
    "neumf": {"factors": recsys_neumf.FACTORS, "layers": len(recsys_neumf.TOWER) - 1},
}


def click_log(table_rows: int, train_rows: int, test_rows: int) -> list[str]:
    """Overrides for one epoch of the click log."""
    return ["data=recsys/synthetic", *overrides(table_rows, train_rows, test_rows), "trainer.max_epochs=1"]


def movielens(root: Path) -> list[str]:
    """Overrides for MovieLens 100K, of which the other contenders have users and items alone."""
    settings = {"root": root, "download": "false", "side_features": "[]", "batch_size": recsys_neumf.BATCH}
    chosen = [f"data.{name}={value}" for name, value in settings.items()]
    return ["data=recsys/movielens_100k", *chosen, f"trainer.max_epochs={recsys_neumf.EPOCHS}", "goal.metric=ndcg_10"]


def command(model: str, data: Sequence[str], choices: Sequence[str], folder: Path) -> list[str]:
    """Python's arguments to train a model in a folder, the store included. `choices`: optimiser, precision, seed."""
    network = [f"model.network.{name}={str(value).replace(' ', '')}" for name, value in NETWORKS[model].items()]
    # The experiment is of DeepFM: its sizes go where another network has none of these names.
    network += [f"~model.network.{name}" for name in ("dim", "hidden") if name not in NETWORKS[model]]
    run = ["scheduler=constant", "accelerator=cpu", "goal.threshold=null", "test=false"]
    where = [f"tracking.uri=sqlite:///{folder / 'mlflow.db'}", f"paths.outputs={folder / 'outputs'}"]
    head = ["-m", "trilab", "train", f"experiment={EXPERIMENT}", f"model=recsys/{model}"]
    return [*head, *data, *run, *network, *choices, *where]


def logged(folder: Path) -> Mapping[str, float]:
    """The last value of each metric of the run in a folder."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name == EXPERIMENT]
    [run] = client.search_runs([experiment.experiment_id])
    return dict(run.data.metrics)


def test_auc(folder: Path, model: str, log_path: Path) -> float:
    """The AUC of the checkpoint of a run's end, by scikit-learn as the others' is."""
    from trilab.runtime import prepare_imports

    prepare_imports()
    import torch

    from trilab.data.recsys.spec import TableSpec
    from trilab.models.recsys.deepfm import DeepFM
    from trilab.models.recsys.dlrm import DLRM

    log = read(log_path)
    [checkpoint] = (folder / "outputs").rglob("last.ckpt")
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
    spec = TableSpec(cardinalities=log.cardinalities, dense=log.test[1].shape[1])
    network = {"deepfm": DeepFM, "dlrm": DLRM}[model](spec, **NETWORKS[model])
    network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
    ids, dense, labels = log.test
    with torch.no_grad():
        scores = network.eval()(torch.from_numpy(ids).long(), torch.from_numpy(dense))
    return auc(scores.numpy(), labels)
