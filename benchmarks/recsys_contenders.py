"""What trilab's DeepFM is measured against: DeepCTR-Torch and FuxiCTR, each by its own `fit`.

    python benchmarks/recsys_contenders.py deepctr --data LOG.npz --threads 2

prints one line of JSON; `recsys_throughput.py` runs this in processes of their own, with whatever Python these
libraries are installed in, so nothing here imports trilab. Both have Adam at --lr, dimension 16, MLP 400-400-400 and
batch 4096, and else their own defaults. The clock hooks onto their optimiser: it starts when the first step is done.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recsys_data import BATCH, Log, read

DIM, HIDDEN = 16, (400, 400, 400)


class Clock:
    """Takes the time from the end of the first optimiser step to the end of the last one."""

    def __init__(self) -> None:
        self.first, self.last = 0.0, 0.0

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.register_step_post_hook(lambda *_: self.tick())

    def tick(self) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last

    def rate(self, samples: int, batch: int) -> float:
        """Samples by the second, of `samples` in all and a first batch of `batch`."""
        return (samples - batch) / (self.last - self.first)


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores.reshape(-1)))


def deepctr(log: Log, options: argparse.Namespace) -> dict[str, float]:
    """DeepCTR-Torch. Its own: l2 of 1e-5 on embeddings and first order, and an MLP that starts at N(0, 0.0001)."""
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [SparseFeat(f"c{i}", size, embedding_dim=DIM) for i, size in enumerate(log.cardinalities)]
    columns += [DenseFeat(f"d{i}", 1) for i in range(log.train[1].shape[1])]

    def inputs(part: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        named = {f"c{i}": column for i, column in enumerate(part[0].T)}
        return named | {f"d{i}": column for i, column in enumerate(part[1].T)}

    model = DeepFM(columns, columns, dnn_hidden_units=HIDDEN, seed=options.seed)
    model.compile(torch.optim.Adam(model.parameters(), lr=options.lr), "binary_crossentropy")
    clock = Clock()
    clock.attach(model.optim)
    model.fit(inputs(log.train), log.train[2], batch_size=BATCH, epochs=1, verbose=0)
    scores = model.predict(inputs(log.test), batch_size=16384)
    return {"samples_per_s": clock.rate(len(log.train[0]), BATCH), "auc": auc(scores, log.test[2])}


def fuxictr(log: Log, options: argparse.Namespace) -> dict[str, float]:
    """FuxiCTR: DeepFM of its layers, as in its model zoo (which its wheel leaves out), with its loader and its fit."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader
    from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel
    from fuxictr.pytorch.torch_utils import seed_everything

    class DeepFM(BaseModel):
        def __init__(self, feature_map: Any, **settings: Any) -> None:
            super().__init__(feature_map, "DeepFM", **settings)
            self.embedding = FeatureEmbedding(feature_map, DIM)
            self.fm = FactorizationMachine(feature_map)
            self.mlp = MLP_Block(DIM * feature_map.num_fields, list(HIDDEN), "relu", 1)
            self.compile("adam", "binary_crossentropy", options.lr)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
            features = self.get_inputs(inputs)
            vectors = self.embedding(features)
            logits = self.fm(features, vectors) + self.mlp(vectors.flatten(1))
            return {"y_pred": self.output_activation(logits)}

    seed_everything(options.seed)
    with tempfile.TemporaryDirectory() as name:
        dense = log.train[1].shape[1]
        for part in ("train", "val", "test"):
            ids, numbers, labels = getattr(log, part)
            columns = {f"c{i}": column for i, column in enumerate(ids.T)}
            columns |= {f"d{i}": column for i, column in enumerate(numbers.T)}
            np.savez(Path(name) / f"{part}.npz", label=labels, **columns)
        feature_map = FeatureMap("recsys_throughput", name)
        categorical = {"type": "categorical", "source": ""}
        feature_map.features = OrderedDict(
            {f"c{i}": {**categorical, "vocab_size": size} for i, size in enumerate(log.cardinalities)}
            | {f"d{i}": {"type": "numeric", "source": ""} for i in range(dense)}
        )
        feature_map.labels = ["label"]
        feature_map.num_fields = feature_map.get_num_fields()
        feature_map.set_column_index()
        (Path(name) / feature_map.dataset_id).mkdir()
        model = DeepFM(feature_map, metrics=["AUC"], verbose=0, model_root=name)
        paths = {f"{key}_data": str(Path(name) / f"{part}.npz") for key, part in _FUXICTR_PARTS.items()}
        train, valid, test = RankDataLoader(feature_map, batch_size=BATCH, data_format="npz", **paths)
        clock = Clock()
        clock.attach(model.optimizer)
        model.fit(train, epochs=1, validation_data=valid)
        return {"samples_per_s": clock.rate(len(log.train[0]), BATCH), "auc": auc(model.predict(test), log.test[2])}


_FUXICTR_PARTS = {"train": "train", "valid": "val", "test": "test"}

CONTENDERS = {"deepctr": deepctr, "fuxictr": fuxictr}
#: The module that a contender needs; RecBole is in recsys_neumf.py.
NEEDS = {"deepctr": "deepctr_torch", "fuxictr": "fuxictr", "recbole": "recbole"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--data", type=Path, required=True, help="the log that recsys_data.py has written")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and the batches' order")
    parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    with contextlib.redirect_stdout(sys.stderr):
        result = CONTENDERS[options.contender](read(options.data), options)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
