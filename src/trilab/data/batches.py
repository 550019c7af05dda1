"""Data as whole tensors: the set stays where it is, and a batch is one indexing operation per tensor.

A DataLoader with its default collate gives 0.1 million rows/s; `index_select` on resident tensors gives 5.4 million.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from trilab.data.contents import Contents, Part, content_key
from trilab.errors import UserError

Batch = tuple[Tensor, ...]


class EpochBatches:
    """An iterable over the batches of numbered epochs, each a function of its number and the seed alone.

    So a run that was resumed has the batches of one that never stopped. Lightning numbers the epochs through
    `sampler.set_epoch` and saves `state_dict` in its checkpoints; without Lightning, each pass is the next epoch.

    Where several processes share a run, a batch is that of all of them together: each gives its own rows of it
    (`share`), as equally many as can be.

    A subclass gives an epoch's batches in `epoch`.

    Args:
        rows: of an epoch.
        batch_size: rows of a batch; the last batch of an epoch has what is left.
        shuffle: epochs differ; Lightning counts them, and refuses `overfit_batches`, which means one epoch again and
            again.
        seed: of whatever an epoch draws.
        drop_last: leave out a last batch that is not full.
        transform: applied to each batch as a whole, on its device.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        transform: Callable[[Batch], Batch] | None = None,
    ) -> None:
        if drop_last and rows < batch_size:
            raise UserError(
                f"data.batch_size={batch_size}: more than the {rows:,} rows there are, so that no batch is full. "
                f"Choose at most {rows}."
            )
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self._drop_last = drop_last
        self._transform = transform
        self._next_epoch = 0
        self._epoch, self._given = 0, 0  # where the current pass is
        self._skip = 0  # batches that the next pass leaves out, for they were trained on before a checkpoint
        self._rank, self._ranks = 0, 1
        self._shuffle = shuffle
        if shuffle:
            self.sampler = self  # Lightning calls `loader.sampler.set_epoch` where there is one

    def epoch(self, number: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on."""
        raise NotImplementedError

    def generator(self, epoch: int) -> torch.Generator:
        """The random stream of an epoch, on the CPU: the same on every device."""
        state = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
        return torch.Generator().manual_seed(state)

    def share(self, rank: int, ranks: int) -> None:
        """Gives this rank's rows of each batch from now on.

        Evaluation's last batch goes into the one before it where it has fewer rows than there are ranks, and batches of
        fewer rows are made larger; what is measured over a whole set does not depend on its batches.

        Raises:
            UserError: there are fewer rows than ranks.
        """
        if not self._shuffle and not self._drop_last:
            self.batch_size = max(self.batch_size, ranks)
        if min(self.rows, self.batch_size) < ranks:
            raise UserError(
                f"trainer.devices={ranks}: a batch of {min(self.rows, self.batch_size)} rows cannot be shared by as "
                "many. Choose larger batches, or fewer devices."
            )
        self._rank, self._ranks = rank, ranks

    def share_of(self, number: int) -> float:
        """How many rows of a batch are this rank's, over how many each has on average; 0 where it has none at all."""
        rows = min(self.batch_size, self.rows - number * self.batch_size)
        own = self._part_of(rows)
        return (own.stop - own.start) * self._ranks / rows

    def _part_of(self, rows: int) -> slice:
        """This rank's of a batch's rows."""
        return slice(rows * self._rank // self._ranks, rows * (self._rank + 1) // self._ranks)

    @property
    def _joins_last(self) -> bool:
        """Whether the last batch goes into the one before it."""
        return not (self._shuffle or self._drop_last) and 0 < self.rows % self.batch_size < self._ranks

    def __len__(self) -> int:
        if self._drop_last or self._joins_last:
            return self.rows // self.batch_size
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator's body starts with the first batch, so after Lightning has said which epoch it is.
        self._epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        first, self._skip = self._skip, 0
        batches = self.epoch(self._epoch, first)
        for number in range(first, len(self)):
            batch = next(batches)
            if self._ranks > 1:
                if self._joins_last and number == len(self) - 1:
                    batch = tuple(torch.cat(pair) for pair in zip(batch, next(batches), strict=True))
                own = self._part_of(len(batch[0]))
                # A rank without a row trains on the first one, with the weight 0: all have to take part in a step.
                batch = tuple(part[own if own.stop > own.start else slice(0, 1)] for part in batch)
            self._given = number + 1
            yield self._transform(batch) if self._transform is not None else batch

    def set_epoch(self, epoch: int) -> None:
        """The number of the epoch that the next pass gives; unless it is the one that was interrupted, in full."""
        if epoch != self._next_epoch:
            self._next_epoch, self._skip = epoch, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "given": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next pass is the rest of the interrupted epoch, or the next epoch where nothing is left of it."""
        epoch, given = int(state["epoch"]), int(state["given"])
        self._next_epoch, self._skip = (epoch + 1, 0) if given >= len(self) else (epoch, given)
        self._epoch, self._given = epoch, given


class TensorBatches(EpochBatches):
    """The rows of equally long tensors, on the device that they live on.

    Args:
        tensors: equal in their first dimension, the rows.
        batch_size: rows of a batch; the last batch of an epoch has what is left.
        shuffle: a new permutation of the rows in each epoch; otherwise batches are views of consecutive rows.
        seed: of the permutations.
        drop_last: leave out a last batch that is not full.
        transform: applied to each batch as a whole, on its device.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        transform: Callable[[Batch], Batch] | None = None,
    ) -> None:
        lengths = {len(tensor) for tensor in tensors}
        if len(lengths) != 1:
            raise ValueError(f"tensors of different lengths: {[len(tensor) for tensor in tensors]}")
        super().__init__(
            lengths.pop(), batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last, transform=transform
        )
        self.tensors = tuple(tensors)

    def epoch(self, number: int, first: int) -> Iterator[Batch]:
        order = self._permutation(number) if self._shuffle else None
        for start in range(first * self.batch_size, self.rows, self.batch_size):
            rows = slice(start, start + self.batch_size)
            if order is None:
                yield tuple(tensor[rows] for tensor in self.tensors)
            else:
                index = order[rows]
                yield tuple(tensor.index_select(0, index) for tensor in self.tensors)

    def _permutation(self, epoch: int) -> Tensor:
        return torch.randperm(self.rows, generator=self.generator(epoch)).to(self.tensors[0].device)


class TensorData(LightningDataModule):
    """A data module that holds its parts in memory and gives their batches on the training device.

    A subclass fills `parts` ("train", "val", "test") in `setup`, and sets `spec`.

    Args:
        batch_size: rows of a training batch.
        eval_batch_size: rows of a batch in validation and test.
        seed: of the training batches' order.
    """

    def __init__(self, batch_size: int, eval_batch_size: int, seed: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.parts: dict[str, Batch] = {}

    @property
    def reference(self) -> dict[str, float]:
        """Values of metrics that are known beforehand, to stand beside the result."""
        return {}

    @property
    def threshold(self) -> tuple[float, str] | None:
        """The result at which the data's makers call it solved, and who says so; None where nobody does."""
        return None

    def contents(self) -> Contents:
        """What there is, after `setup`."""
        return Contents({name: Part({"rows": len(part[0])}, content_key(part)) for name, part in self.parts.items()})

    def transform(self, batch: Batch) -> Batch:
        """Applied to each batch as a whole, on its device."""
        return batch

    def train_dataloader(self) -> TensorBatches:
        overfit = getattr(self.trainer, "overfit_batches", 0)  # means the same batches in each epoch
        return self._batches("train", self.batch_size, shuffle=not overfit)

    def val_dataloader(self) -> TensorBatches:
        return self._batches("val", self.eval_batch_size)

    def test_dataloader(self) -> TensorBatches:
        return self._batches("test", self.eval_batch_size)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # it is there already

    def _batches(self, name: str, batch_size: int, shuffle: bool = False) -> TensorBatches:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        part = self.parts[name] = tuple(tensor.to(device) for tensor in self.parts[name])
        return TensorBatches(part, batch_size, shuffle=shuffle, seed=self.seed, transform=self.transform)
