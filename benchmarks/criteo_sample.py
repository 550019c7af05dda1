"""DeepFM against logistic regression on 8,000 rows of Criteo: the same rows, ids and numbers for both.

    python benchmarks/criteo_sample.py [--seeds 5] [--resamples 2000] [OVERRIDES of experiment=recsys/deepfm_criteo]

The logistic regression is scikit-learn's, on the one-hot ids and the numbers of `data=recsys/criteo_sample`; its
penalty is chosen by the AUC on the validation rows, as DeepFM's epoch is. Intervals are 95% bootstraps over the test's
rows.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from trilab.runtime import prepare_imports

prepare_imports()

import torch  # noqa: E402

from trilab.callbacks.identity import KEY, read_checkpoint  # noqa: E402
from trilab.config.job import Job  # noqa: E402
from trilab.data.recsys.tables import ClickTable  # noqa: E402
from trilab.lightning import assemble  # noqa: E402

Floats = NDArray[np.float64]
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def deepfm(seed: int, overrides: list[str], folder: Path) -> Path:
    """Trains one through the command line; its best checkpoint."""
    outputs = folder / f"seed_{seed}"
    where = [f"tracking.uri=sqlite:///{folder / 'mlflow.db'}", f"paths.outputs={outputs}", "test=false"]
    command = [sys.executable, "-m", "trilab", "train", "experiment=recsys/deepfm_criteo", f"seed={seed}"]
    subprocess.run([*command, *where, *overrides], check=True, stdout=subprocess.DEVNULL)
    return next(outputs.rglob("best.ckpt"))


def one_hot(data: ClickTable, part: str) -> tuple[sparse.csr_matrix, Floats]:
    """(rows, ids of all fields and dense features) and (rows,) labels."""
    ids, dense, labels = (tensor.numpy() for tensor in data.parts[part])
    ends = np.cumsum([0, *data.spec.cardinalities])
    places = (np.repeat(np.arange(len(ids)), ids.shape[1]), (ids + ends[:-1]).ravel())
    indicator = sparse.csr_matrix((np.ones(ids.size), places), (len(ids), ends[-1]))
    return sparse.hstack([indicator, dense]).tocsr(), labels.astype(np.float64)


def logistic(data: ClickTable) -> tuple[Floats, float]:
    """The test's scores, and the inverse penalty that was best on the validation rows."""
    (train, labels), (val, val_labels), (test, _) = (one_hot(data, part) for part in ("train", "val", "test"))
    models = [LogisticRegression(C=penalty, max_iter=2000).fit(train, labels) for penalty in PENALTIES]
    best = int(np.argmax([roc_auc_score(val_labels, model.decision_function(val)) for model in models]))
    return models[best].decision_function(test), PENALTIES[best]


def interval(values: list[float]) -> str:
    return "[{:.4f}, {:.4f}]".format(*np.quantile(values, (0.025, 0.975)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--resamples", type=int, default=2000)
    options, overrides = parser.parse_known_args()
    scores: list[Floats] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            content = read_checkpoint(deepfm(seed, overrides, Path(folder)), "checkpoint")
            data, model = assemble([Job(content[KEY]["config"], content[KEY]["choices"])])
            model.load_state_dict(content["state_dict"])
            model.eval()
            with torch.no_grad():
                scores.append(np.concatenate([model(*batch[:2]).numpy() for batch in data.test_dataloader()]))
    assert isinstance(data, ClickTable)
    labels = one_hot(data, "test")[1]
    baseline, penalty = logistic(data)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(labels), len(labels)) for _ in range(options.resamples)]
    of_baseline = [roc_auc_score(labels[rows], baseline[rows]) for rows in drawn]
    of_ours = [np.mean([roc_auc_score(labels[rows], each[rows]) for each in scores]) for rows in drawn]
    ours = [roc_auc_score(labels, each) for each in scores]
    theirs = roc_auc_score(labels, baseline)
    print(f"test rows                          {len(labels)}, {int(labels.sum())} clicks")
    print(f"logistic regression, C={penalty:<5}       {theirs:.4f} {interval(of_baseline)}")
    print(f"DeepFM, mean over {options.seeds} seeds          {np.mean(ours):.4f} {interval(of_ours)}")
    print(f"       seed by seed                {', '.join(f'{auc:.4f}' for auc in ours)}")
    difference = [a - b for a, b in zip(of_ours, of_baseline, strict=True)]
    print(f"difference                         {np.mean(ours) - theirs:+.4f} {interval(difference)}")


if __name__ == "__main__":
    main()
