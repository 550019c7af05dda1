"""Agents whose life is known in closed form: a weight that walks towards TARGET, judged by how near it is to HOME.

From its seed on, w <- w - lr d/dw (w - TARGET)^2, so after n steps w = TARGET + (seed - TARGET) (1 - 2 lr)^n. With
HOME on the way, the best epoch is in the middle of the walk, and at another place for another seed.
"""

import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trilab.models.module import Module, OptimizerFactory
from trilab.models.schedules import Schedule

TARGET, HOME, RATE, BATCHES = 10.0, 6.0, 0.05, 3


def weight_after(seed: int, epochs: int) -> float:
    return TARGET + (seed - TARGET) * (1 - 2 * RATE) ** (BATCHES * epochs)


def score(weight: float) -> float:
    return -abs(weight - HOME)


def best_epoch(seed: int, epochs: int) -> int:
    return max(range(1, epochs + 1), key=lambda epoch: score(weight_after(seed, epoch)))


class Targets(LightningDataModule):
    spec = None

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seeds = [seed]

    @staticmethod
    def joined(members: "Sequence[Targets]") -> "Targets":
        data = Targets(0)
        data.seeds = [member.seeds[0] for member in members]
        return data

    def train_dataloader(self) -> DataLoader:
        targets: Any = torch.full((BATCHES, len(self.seeds)), TARGET)
        return DataLoader(targets, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        nothing: Any = [0]
        return DataLoader(nothing, batch_size=None)

    test_dataloader = val_dataloader


class Walkers(Module):
    steps = "strides"

    def __init__(
        self,
        spec: Any,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        seed: int,
        fail_in: str | None = None,
        stop_by: str | None = None,
        silent_seed: int | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        if fail_in == "init":
            raise RuntimeError("broken init")
        self.weight = nn.Parameter(torch.full((1,), float(seed)))
        self.seeds = [seed]
        self.fail_in, self.stop_by, self.silent_seed = fail_in, stop_by, silent_seed

    @classmethod
    def joined(cls, members: "Sequence[Walkers]") -> "Walkers":
        first = members[0]
        first.seeds = [member.seeds[0] for member in members]
        first.agents = len(members)
        first.weight = nn.Parameter(torch.cat([member.weight.detach() for member in members]))
        return first

    def agent_state(self, k: int) -> dict[str, Tensor]:
        return {"weight": self.weight.detach()[k : k + 1]}

    def load_agent_state(self, k: int, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.weight[k : k + 1] = state["weight"]

    def _each(self, values: Tensor) -> Any:
        values = values.detach()
        return values if self.agents > 1 else values[0]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.current_epoch == 1 and self.stop_by is not None:
            os.kill(os.getpid(), getattr(signal, self.stop_by))
        if self.current_epoch == 1 and self.fail_in == "training_step":
            raise RuntimeError("broken training_step")
        losses = (self.weight - batch) ** 2  # (agents,)
        self.observe(self.agents, loss=self._each(losses))
        return losses.sum()

    def _judge(self, split: str) -> None:
        scores: Any = self._each(-(self.weight - HOME).abs())
        if self.agents > 1 and self.silent_seed in self.seeds:
            scores = [
                None if seed == self.silent_seed else float(s) for seed, s in zip(self.seeds, scores, strict=True)
            ]
        self.report({f"{split}/score": scores, f"{split}/weight": np.array(self._each(self.weight))})

    def validation_step(self, batch: int, batch_idx: int) -> None:
        self._judge("val")

    def test_step(self, batch: int, batch_idx: int) -> None:
        if self.fail_in == "test_step":
            raise RuntimeError("broken test_step")
        self._judge("test")
