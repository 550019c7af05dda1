"""Batches from a part on disk that need not fit in memory: blocks in random order, several mixed at a time.

A buffer of `mixed` random blocks is filled, its rows are permuted, and batches are slices of it; meanwhile a thread
fills the next buffer. So three buffers at most are in memory, whatever the size of the part. Rows meet in a batch only
if their blocks meet in a buffer: the larger the buffer, the nearer to a permutation of all rows.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from trilab.data.batches import Batch, EpochBatches
from trilab.data.recsys.table_parts import TablePart


class BlockBatches(EpochBatches):
    """Batches `(ids, dense, labels)` of a part; ids have the integer type of the file.

    Args:
        part: where the blocks are.
        batch_size: rows of a batch; the last batch of an epoch has what is left.
        mixed: blocks of a buffer.
        shuffle: otherwise rows come in the order of the file.
        seed: of the orders.
        transform: applied to each batch as a whole.
    """

    def __init__(
        self,
        part: TablePart,
        batch_size: int,
        mixed: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        transform: Callable[[Batch], Batch] | None = None,
    ) -> None:
        super().__init__(part.rows, batch_size, shuffle=shuffle, seed=seed, transform=transform)
        self.part = part
        self.mixed = mixed

    def epoch(self, number: int, first: int) -> Iterator[Batch]:
        order, seeds = self._plan(number)
        groups = [order[start : start + self.mixed] for start in range(0, len(order), self.mixed)]
        ends = list(accumulate(sum(self.part.sizes[block] for block in group) for group in groups))
        skipped = first * self.batch_size  # rows that come before
        begin = bisect_right(ends, skipped)  # the buffer of the first row that does not
        start = skipped - (ends[begin - 1] if begin else 0)
        rest: Batch | None = None  # the beginning of a batch whose other rows are in the next buffer
        for buffer in self._buffers(groups[begin:], seeds[begin:]):
            rows = len(buffer[0])
            while start < rows:
                end = min(rows, start + self.batch_size - (len(rest[0]) if rest is not None else 0))
                batch = tuple(tensor[start:end] for tensor in buffer)
                if rest is not None:
                    batch = tuple(torch.cat(pair) for pair in zip(rest, batch, strict=True))
                full = len(batch[0]) == self.batch_size
                if full:
                    yield batch
                start, rest = end, None if full else batch
            start = 0
        if rest is not None:
            yield rest

    def _buffers(self, groups: list[list[int]], seeds: list[int]) -> Iterator[Batch]:
        """Each filled while the one before is in use."""
        following: Future[Batch] | None = None
        with ThreadPoolExecutor(1) as reader:
            for group, seed in zip(groups, seeds, strict=False):  # a seed for each block is more than are needed
                current, following = following, reader.submit(self._fill, group, seed)
                if current is not None:
                    yield current.result()
            if following is not None:
                yield following.result()

    def _plan(self, number: int) -> tuple[list[int], list[int]]:
        """The order of the blocks in an epoch, and the seed of each buffer's permutation."""
        blocks = len(self.part.sizes)
        if not self._shuffle:
            return list(range(blocks)), [0] * blocks
        generator = self.generator(number)
        order = torch.randperm(blocks, generator=generator).tolist()
        return order, torch.randint(2**62, (blocks,), generator=generator).tolist()

    def _fill(self, blocks: list[int], seed: int) -> Batch:
        """The rows of some blocks, permuted if so asked: (rows, fields), (rows, dense) and (rows,)."""
        sizes = [self.part.sizes[block] for block in blocks]
        order = None
        if self._shuffle:
            order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed)).numpy()
        return _copy(self.part, blocks, order)


def resident(part: TablePart) -> Batch:
    """All rows of a part in memory: (rows, fields) ids as in the file, (rows, dense) and (rows,)."""
    return _copy(part, range(len(part.sizes)), None)


def _copy(part: TablePart, blocks: Sequence[int], order: NDArray[np.int64] | None) -> Batch:
    """The rows of some blocks; row i goes to place order[i], if there is an order."""
    rows = sum(part.sizes[block] for block in blocks)
    ids = np.empty((rows, part.fields), part.id_type)
    dense = np.empty((rows, part.dense), np.float32)
    labels = np.empty(rows, np.float32)
    start = 0
    for block in blocks:
        end = start + part.sizes[block]
        places = slice(start, end) if order is None else order[start:end]
        ids[places], dense[places], labels[places] = part.block(block)
        part.release()
        start = end
    return torch.from_numpy(ids), torch.from_numpy(dense), torch.from_numpy(labels)
