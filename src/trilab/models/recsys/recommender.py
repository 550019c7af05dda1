"""Training of any network that scores rows, by binary cross-entropy, and its evaluation on clicks or on rankings."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trilab.collectives import all_rows
from trilab.data.recsys.metrics import auc, grouped_auc, logloss
from trilab.data.recsys.ranking import ranking_metrics
from trilab.data.recsys.spec import TableSpec
from trilab.models.module import Module, OptimizerFactory
from trilab.models.recsys.embedding import FusedEmbedding
from trilab.models.recsys.row_optimizers import RowOptimizer
from trilab.models.schedules import Schedule
from trilab.ranges import NonNegativeFloat

ScoredBatch = tuple[Tensor, Tensor, Tensor]


class Recommender(Module):
    """Any network from ids and dense features to a logit.

    Reports over the whole of a set, not a mean over batches: of clicks `auc` and `logloss`, and `grouped_auc` where the
    data name a field to group by; of rankings `hit_rate_K`, `ndcg_K`, `recall_K` and `mrr`, means over users. Metrics
    of a second loader of the data begin with its name, as in `test/full_ndcg_10`.

    Args:
        network: makes the network from the data's spec.
        embedding_l2: coefficient of the sum of squares of the embeddings that a row looks up, mean over the batch.
    """

    def __init__(
        self,
        spec: TableSpec,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        network: Callable[..., nn.Module],
        embedding_l2: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network = network(spec=spec)
        self.spec = spec
        self._tables = [module for module in self.network.modules() if isinstance(module, FusedEmbedding)]
        self._embedding_l2 = embedding_l2
        for table in self._tables:
            table.sums_squares = embedding_l2 > 0
        # Of an evaluation, on the device, by the loader's number:
        self._scored: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}  # logits, labels, groups of clicks
        self._ranked: dict[int, list[dict[str, Tensor]]] = {}  # each user's metrics

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = super().make_optimizer(parameters)
        if isinstance(optimizer, RowOptimizer):
            optimizer.bind(self._tables)
        return optimizer

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        return self.network(ids, dense)  # (batch,)

    def training_step(self, batch: ScoredBatch, batch_idx: int) -> Tensor:
        ids, dense, labels = batch
        loss = F.binary_cross_entropy_with_logits(self(ids, dense).float(), labels)
        self.observe(len(labels), loss=loss)
        for table in self._tables:
            loss = loss + self._embedding_l2 / len(labels) * sum(table.squares)
            table.squares.clear()
        return loss

    # Evaluation

    def _evaluate(self, batch: ScoredBatch, loader: int) -> None:
        ids, dense, labels = batch
        logits = self(ids.flatten(0, -2), dense.flatten(0, -2)).float().view(labels.shape)
        if labels.dim() == 2:
            metrics = ranking_metrics(logits, labels, self.spec.cutoffs)  # (users,) each
            self._ranked.setdefault(loader, []).append(metrics)
        else:
            group = self.spec.group
            groups = ids[:, group] if group is not None else labels
            self._scored.setdefault(loader, []).append((logits, labels, groups))

    def _report(self, split: str, loaders: Any) -> None:
        names = [getattr(loader, "name", "") for loader in (loaders if isinstance(loaders, list) else [loaders])]
        prefixes = [f"{split}/{name}_" if name else f"{split}/" for name in names]
        metrics: dict[str, Tensor | float] = {}
        for loader, parts in self._ranked.items():
            metrics |= {
                prefixes[loader] + name: all_rows(torch.cat([part[name] for part in parts])).mean() for name in parts[0]
            }
        for loader, scored in self._scored.items():
            logits, labels, groups = (all_rows(torch.cat(column)).cpu() for column in zip(*scored, strict=True))
            metrics[f"{prefixes[loader]}auc"] = auc(logits, labels)
            metrics[f"{prefixes[loader]}logloss"] = logloss(logits, labels)
            if self.spec.group is not None:
                metrics[f"{prefixes[loader]}grouped_auc"] = grouped_auc(logits, labels, groups)
        self.report(metrics)
        self._forget()

    def _forget(self) -> None:
        self._scored, self._ranked = {}, {}

    def on_validation_epoch_start(self) -> None:
        self._forget()

    def on_test_epoch_start(self) -> None:
        self._forget()

    def validation_step(self, batch: ScoredBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, dataloader_idx)

    def test_step(self, batch: ScoredBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        self._report("val", self.trainer.val_dataloaders)

    def on_test_epoch_end(self) -> None:
        self._report("test", self.trainer.test_dataloaders)
