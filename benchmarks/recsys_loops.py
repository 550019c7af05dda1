"""Plain PyTorch loops to measure trilab's recommenders against: nothing around the step, no logging, no checkpoints.

    python benchmarks/recsys_loops.py dlrm --data LOG.npz --threads 2

prints one line of JSON, as `recsys_contenders.py` does.

- `dlrm`: as Meta's dlrm_s_pytorch.py trains: an nn.EmbeddingBag(sparse=True) for each field, `bmm` and a list of index
  pairs for the interaction, SGD. Dense features as they are.
- `lazy_adam`, `rowwise_adagrad`, `adam`: DeepFM as tight as we know how to write it with torch's operators. What trilab
  costs beside it is what a framework costs.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recsys_contenders import DIM, HIDDEN, Clock, auc
from recsys_data import BATCH, Log, read
from torch import Tensor, nn
from torch.nn import functional as F

BOTTOM, TOP = (512, 256, 64, DIM), (512, 256)
EPS = 1e-8
Part = tuple[Tensor, Tensor, Tensor]


def dlrm(log: Log, options: argparse.Namespace) -> dict[str, float]:
    """Meta's loop: all in fp32, sparse gradients, SGD."""
    network = MetaDLRM(log.cardinalities, log.train[1].shape[1])
    optimizer = torch.optim.SGD(network.parameters(), lr=options.sgd_lr)
    clock = Clock()
    for ids, dense, labels in batches(tensors(log.train), options.seed):
        loss = F.binary_cross_entropy(network(ids, dense), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock.tick()
    return {"samples_per_s": clock.rate(len(log.train[0]), BATCH), "auc": test_auc(log, network)}


class MetaDLRM(nn.Module):
    """A table for each field, a bottom and a top MLP, and the dot products of all pairs of vectors between them."""

    def __init__(self, cardinalities: tuple[int, ...], dense: int) -> None:
        super().__init__()
        tables = [nn.EmbeddingBag(n, DIM, mode="sum", sparse=True) for n in cardinalities]
        for table, n in zip(tables, cardinalities, strict=True):
            nn.init.uniform_(table.weight, -(n**-0.5), n**-0.5)
        self.tables = nn.ModuleList(tables)
        self.bottom = _mlp([dense, *BOTTOM], nn.ReLU())
        vectors = len(cardinalities) + 1
        self.top = _mlp([vectors * (vectors - 1) // 2 + DIM, *TOP, 1], nn.Sigmoid())
        self.first = [i for i in range(vectors) for j in range(i)]
        self.second = [j for i in range(vectors) for j in range(i)]

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        offsets = torch.arange(len(ids))
        x = self.bottom(dense)
        looked_up = [table(column, offsets) for table, column in zip(self.tables, ids.T.contiguous(), strict=True)]
        vectors = torch.cat([x, *looked_up], 1).view(len(ids), -1, DIM)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        pairs = products[:, self.first, self.second]
        return self.top(torch.cat([x, pairs], 1)).squeeze(1)


def _mlp(sizes: list[int], last: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        nn.init.normal_(linear.weight, 0.0, (2 / (inputs + outputs)) ** 0.5)
        nn.init.normal_(linear.bias, 0.0, outputs**-0.5)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1], last)


def deepfm(log: Log, options: argparse.Namespace) -> dict[str, float]:
    """DeepFM with its table trained row by row, or by dense Adam."""
    network = DeepFM(log)
    rows = None if options.contender == "adam" else Rows(network.weight, options)
    trained = [p for p in network.parameters() if rows is None or p is not network.weight]
    optimizer = torch.optim.Adam(trained, lr=options.lr, fused=True)
    clock = Clock()
    for ids, dense, labels in batches(tensors(log.train), options.seed):
        index = (ids + network.offsets).view(-1)
        looked_up = F.embedding(index, network.weight)
        if rows is not None:
            looked_up = looked_up.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16-mixed"):
            logits = network.of_rows(looked_up, dense)
        F.binary_cross_entropy_with_logits(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if rows is not None:
            assert looked_up.grad is not None
            rows.update(index, looked_up.grad)
        clock.tick()
    return {"samples_per_s": clock.rate(len(log.train[0]), BATCH), "auc": test_auc(log, network)}


class DeepFM(nn.Module):
    """All fields in one table, whose column 0 is the first order."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        fields, dense = len(log.cardinalities), log.train[1].shape[1]
        starts = np.cumsum([0, *log.cardinalities])
        self.offsets = torch.from_numpy(starts[:-1])
        self.weight = nn.Parameter(torch.empty(int(starts[-1]), 1 + DIM).normal_(std=0.01))
        self.dense_w = nn.Parameter(torch.randn(dense) * 0.01)
        self.dense_v = nn.Parameter(torch.randn(dense, DIM) * 0.01)
        self.bias = nn.Parameter(torch.zeros(()))
        sizes = [(fields + dense) * DIM, *HIDDEN]
        layers = [m for a, b in zip(sizes, HIDDEN, strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
        self.deep = nn.Sequential(*layers, nn.Linear(HIDDEN[-1], 1))

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        return self.of_rows(F.embedding((ids + self.offsets).view(-1), self.weight), dense)

    def of_rows(self, rows: Tensor, dense: Tensor) -> Tensor:
        """(batch * fields, 1 + dim) rows of the table and (batch, dense) features to (batch,) logits."""
        batch = len(dense)
        w, v = rows.split((1, DIM), 1)
        flat = torch.cat([v.reshape(batch, -1), (dense.unsqueeze(2) * self.dense_v).view(batch, -1)], 1)
        first_order = w.reshape(batch, -1).sum(1) + dense @ self.dense_w
        return self.bias + first_order + Pairs.apply(flat.view(batch, -1, DIM)) + self.deep(flat).squeeze(1)


class Pairs(torch.autograd.Function):
    """FM's second order with its gradient written out: d/dv_i = sum_j v_j - v_i."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        total = vectors.sum(1)
        ctx.save_for_backward(vectors, total)
        return 0.5 * (total.square().sum(1) - vectors.flatten(1).square().sum(1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        vectors, total = ctx.saved_tensors
        return (total.unsqueeze(1) - vectors).mul_(grad.view(-1, 1, 1))


class Rows:
    """Updates the rows of a table that were looked up: duplicates are brought together by sorting, and summed."""

    def __init__(self, weight: Tensor, options: argparse.Namespace) -> None:
        self.weight, self.options = weight.detach(), options
        self.steps = torch.zeros(())
        self.lazy = options.contender == "lazy_adam"
        moments = self.weight.shape if self.lazy else (0, 1 + DIM)
        self.first, self.second = torch.zeros(moments), torch.zeros(moments)
        self.squares = torch.zeros(len(weight))

    def update(self, index: Tensor, grads: Tensor) -> None:
        ordered, order = index.to(torch.int32).sort(stable=True)
        starts = torch.ones(len(ordered), dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=starts[1:])
        start = starts.nonzero().view(-1)
        index = ordered.index_select(0, start).long()
        grad = F.embedding_bag(order, grads, start, mode="sum")  # (unique, 1 + dim)
        rows = self.weight.index_select(0, index)
        self._lazy_adam(index, rows, grad) if self.lazy else self._rowwise_adagrad(index, rows, grad)
        self.weight.index_copy_(0, index, rows)

    def _lazy_adam(self, index: Tensor, rows: Tensor, grad: Tensor) -> None:
        self.steps += 1
        first, second = self.first.index_select(0, index), self.second.index_select(0, index)
        torch._fused_adam_(
            [rows], [grad], [first], [second], [], [self.steps], lr=self.options.lr, beta1=0.9, beta2=0.999,
            weight_decay=0.0, eps=EPS, amsgrad=False, maximize=False,
        )  # fmt: skip
        self.first.index_copy_(0, index, first)
        self.second.index_copy_(0, index, second)

    def _rowwise_adagrad(self, index: Tensor, rows: Tensor, grad: Tensor) -> None:
        total = self.squares.index_select(0, index).add_(grad.square().mean(1))
        self.squares.index_copy_(0, index, total)
        rows.addcdiv_(grad, total.sqrt_().add_(EPS).unsqueeze(1), value=-self.options.table_lr)


def tensors(part: tuple[np.ndarray, ...]) -> Part:
    ids, dense, labels = map(torch.from_numpy, part)
    return ids.long(), dense, labels


def batches(part: Part, seed: int) -> Iterator[Part]:
    """One epoch, in random order."""
    order = torch.randperm(len(part[0]), generator=torch.Generator().manual_seed(seed))
    for index in order.split(BATCH):
        yield part[0].index_select(0, index), part[1].index_select(0, index), part[2].index_select(0, index)


def test_auc(log: Log, network: Callable[[Tensor, Tensor], Tensor]) -> float:
    ids, dense, _ = tensors(log.test)
    with torch.no_grad():
        scores = [network(*rows) for rows in zip(ids.split(16384), dense.split(16384), strict=True)]
    return auc(torch.cat(scores).numpy(), log.test[2])


LOOPS = {"dlrm": dlrm, "lazy_adam": deepfm, "rowwise_adagrad": deepfm, "adam": deepfm}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("contender", choices=LOOPS)
    parser.add_argument("--data", type=Path, required=True, help="the log that recsys_data.py has written")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and the batches' order")
    parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
    parser.add_argument("--table-lr", type=float, default=0.02, help="learning rate of row-wise Adagrad")
    parser.add_argument("--sgd-lr", type=float, default=0.1, help="learning rate of Meta's SGD")
    parser.add_argument("--precision", choices=("fp32", "bf16-mixed"), default="fp32")
    parser.add_argument("--matmul", choices=("highest", "medium"), default="highest", help="fp32 matrix products")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision(options.matmul)
    torch.manual_seed(options.seed)
    print(json.dumps(LOOPS[options.contender](read(options.data), options)))


if __name__ == "__main__":
    main()
