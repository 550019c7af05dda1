"""NeuMF on MovieLens 100K, for `recsys_throughput.py`: a plain PyTorch loop, and RecBole's own model and trainer.

    python benchmarks/recsys_neumf.py plain --data DIR/ml-100k/u.data

prints one line of JSON. Both have the sizes of the NCF paper at 8 factors (He et al. 2017,
https://arxiv.org/abs/1708.05031: GMF of 8, tower 64-32-16-8), Adam at 1e-3, four negatives for each positive, redrawn
in each epoch, which is part of the time. Of each user the two latest ratings are held out, as trilab holds them out.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from recsys_contenders import Clock
from torch import Tensor, nn
from torch.nn import functional as F

FACTORS, TOWER = 8, (64, 32, 16, 8)
BATCH, NEGATIVES, EPOCHS, LR = 1024, 4, 4, 1e-3
HELD_OUT = 2


def ratings(path: Path) -> np.ndarray:
    """(100,000, 3) user, item and time, in order of time for each user."""
    table = np.loadtxt(path, dtype=np.int64)[:, [0, 1, 3]]
    return table[np.lexsort((table[:, 2], table[:, 0]))]


def plain(options: argparse.Namespace) -> dict[str, float]:
    table = ratings(options.data)
    last = np.r_[table[HELD_OUT:, 0], -np.ones(HELD_OUT, np.int64)] != table[:, 0]  # of its user's two latest
    users, items = torch.from_numpy(table[~last, 0] - 1), torch.from_numpy(table[~last, 1] - 1)
    sizes = int(table[:, 0].max()), int(table[:, 1].max())
    has = torch.zeros(sizes, dtype=torch.bool)
    has[users, items] = True
    network = NeuMF(*sizes)
    optimizer = torch.optim.Adam(network.parameters(), lr=LR, fused=True)
    clock = Clock()
    labels = torch.cat([torch.ones(len(users)), torch.zeros(NEGATIVES * len(users))])
    every_user = users.repeat(1 + NEGATIVES)
    for _ in range(EPOCHS):
        unseen = _draw(users.repeat(NEGATIVES), has)
        order = torch.randperm(len(labels))
        shuffled = every_user[order], torch.cat([items, unseen])[order], labels[order]
        for user, item, label in zip(*(column.split(BATCH) for column in shuffled), strict=True):
            loss = F.binary_cross_entropy_with_logits(network(user, item), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clock.tick()
    return {"samples_per_s": clock.rate(EPOCHS * len(labels), BATCH)}


def _draw(users: Tensor, has: Tensor) -> Tensor:
    """An item for each user that the user does not have, by rejection."""
    items = torch.randint(has.shape[1], users.shape)
    while len(wrong := has[users, items].nonzero().view(-1)):
        items[wrong] = torch.randint(has.shape[1], wrong.shape)
    return items


class NeuMF(nn.Module):
    """GMF and the tower on embeddings of their own, under one head."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.user, self.item = (
            nn.Embedding(users, FACTORS + TOWER[0] // 2),
            nn.Embedding(items, FACTORS + TOWER[0] // 2),
        )
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.01)
        layers = [m for a, b in pairwise(TOWER) for m in (nn.Linear(a, b), nn.ReLU())]
        self.tower, self.head = nn.Sequential(*layers), nn.Linear(FACTORS + TOWER[-1], 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        (p, p_mlp), (q, q_mlp) = (row.split((FACTORS, TOWER[0] // 2), 1) for row in (self.user(user), self.item(item)))
        return self.head(torch.cat([p * q, self.tower(torch.cat([p_mlp, q_mlp], 1))], 1)).squeeze(1)


def recbole(options: argparse.Namespace) -> dict[str, float]:
    """RecBole's NeuMF: its files, its data set, sampler and loader, its trainer. No evaluation, nothing saved."""
    for name, kind in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        setattr(np, name, kind)  # NumPy 2 has dropped these names, and RecBole reads them where it starts
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "ml-100k"
        folder.mkdir()
        lines = ["\t".join(map(str, row)) for row in ratings(options.data).tolist()]
        header = "user_id:token\titem_id:token\ttimestamp:float"
        (folder / "ml-100k.inter").write_text("\n".join([header, *lines]) + "\n")
        settings = {
            "data_path": name,
            "checkpoint_dir": name,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni99"},
            "train_neg_sample_args": {"distribution": "uniform", "sample_num": NEGATIVES},
            "mf_embedding_size": FACTORS,
            "mlp_embedding_size": TOWER[0] // 2,
            "mlp_hidden_size": list(TOWER[1:]),
            "dropout_prob": 0.0,
            "learning_rate": LR,
            "train_batch_size": BATCH,
            "epochs": EPOCHS,
            "eval_step": 0,
            "use_gpu": False,
            "seed": options.seed,
            "worker": 0,
        }
        argv, sys.argv = sys.argv, sys.argv[:1]  # its Config reads them
        config = Config(model="NeuMF", dataset="ml-100k", config_dict=settings)
        sys.argv = argv
        init_seed(config["seed"], config["reproducibility"])
        train, _, _ = data_preparation(config, create_dataset(config))
        model = get_model("NeuMF")(config, train.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], "NeuMF")(config, model)
        clock = Clock()
        clock.attach(trainer.optimizer)
        torch.set_num_threads(options.threads)
        trainer.fit(train, saved=False, verbose=False)
        return {"samples_per_s": clock.rate(EPOCHS * (1 + NEGATIVES) * len(train.dataset), BATCH)}


CONTENDERS = {"plain": plain, "recbole": recbole}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("--data", type=Path, required=True, help="MovieLens 100K's u.data")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    with contextlib.redirect_stdout(sys.stderr):
        result = CONTENDERS[options.contender](options)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
