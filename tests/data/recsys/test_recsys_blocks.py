"""Batches from blocks on disk: each row once, together, in an order that is a function of seed and epoch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trilab.data.recsys.blocks import BlockBatches, resident
from trilab.data.recsys.table_parts import TablePart, write_part


def part_of(folder: Path, rows: int, block_rows: int, dense: int = 2) -> TablePart:
    """Row i has the ids (i, 2 i), the features i / 2 and the label i."""
    index = np.arange(rows)
    blocks = (
        (
            np.stack([at, 2 * at], 1),
            np.repeat(at[:, None] / 2, dense, 1).astype(np.float32),
            at.astype(np.float32),
        )
        for at in (index[start : start + block_rows] for start in range(0, rows, block_rows))
    )
    path = folder / f"{rows}_{block_rows}_{dense}.arrow"
    assert write_part(path, blocks, fields=2, dense=dense, id_type=np.dtype(np.int32)) == rows
    return TablePart(path)


def order(batches: BlockBatches) -> list[int]:
    return torch.cat([labels for _, _, labels in batches]).int().tolist()


SIZES = [(1000, 64, 3, 50), (1000, 64, 3, 300), (1000, 64, 3, 999), (1000, 64, 100, 64), (128, 64, 1, 64),
         (129, 64, 1, 64), (1, 64, 2, 10), (63, 64, 2, 63), (500, 7, 5, 33), (500, 7, 1, 100)]  # fmt: skip


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("rows", "block_rows", "mixed", "batch_size"), SIZES)
def test_each_row_once_an_epoch_and_rows_stay_together(
    tmp_path: Path, rows: int, block_rows: int, mixed: int, batch_size: int, shuffle: bool
) -> None:
    batches = BlockBatches(part_of(tmp_path, rows, block_rows), batch_size, mixed, shuffle=shuffle, seed=1)
    for _ in range(2):
        seen = list(batches)
        sizes = [len(labels) for _, _, labels in seen]
        assert len(sizes) == len(batches)
        assert all(size == batch_size for size in sizes[:-1])
        ids, dense, labels = (torch.cat(column) for column in zip(*seen, strict=True))
        assert sorted(labels.tolist()) == list(range(rows))
        assert torch.equal(ids, torch.stack([labels, 2 * labels], 1).int())
        assert torch.equal(dense, (labels / 2).unsqueeze(1).expand(-1, 2))
        if not shuffle:
            assert labels.tolist() == list(range(rows))


@pytest.mark.parametrize(("rows", "block_rows", "mixed", "batch_size"), SIZES)
def test_resumed_from_any_batch_it_is_the_rest_of_the_epoch(
    tmp_path: Path, rows: int, block_rows: int, mixed: int, batch_size: int
) -> None:
    part = part_of(tmp_path, rows, block_rows)
    whole = [
        labels.tolist() for _, _, labels in BlockBatches(part, batch_size, mixed, shuffle=True, seed=5).epoch(2, 0)
    ]
    for first in range(len(whole) + 1):
        rest = BlockBatches(part, batch_size, mixed, shuffle=True, seed=5).epoch(2, first)
        assert [labels.tolist() for _, _, labels in rest] == whole[first:]


def test_a_checkpoint_within_an_epoch_goes_on_where_it_was(tmp_path: Path) -> None:
    part = part_of(tmp_path, 1000, 64)
    before, after = (BlockBatches(part, 90, 4, shuffle=True, seed=3) for _ in range(2))
    stopped = iter(before)
    seen = [next(stopped)[2].tolist() for _ in range(5)]
    state = before.state_dict()
    stopped.close()  # as an interrupted training leaves it: nothing hangs
    after.load_state_dict(state)
    after.set_epoch(0)
    rest = [labels.tolist() for _, _, labels in after]
    fresh = BlockBatches(part, 90, 4, shuffle=True, seed=3)
    assert [labels.tolist() for _, _, labels in fresh] == seen + rest
    assert order(after) == order(fresh)  # and the next epoch


def test_order_is_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    part = part_of(tmp_path, 1000, 64)
    first, second, other = (BlockBatches(part, 90, 4, shuffle=True, seed=seed) for seed in (1, 1, 2))
    epochs = [order(first) for _ in range(3)]
    assert epochs == [order(second) for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert order(other) not in epochs


def test_blocks_are_mixed(tmp_path: Path) -> None:
    """Any row can come first, and rows of a batch come from several blocks, far apart in the file."""
    batches = BlockBatches(part_of(tmp_path, 32, 2), 4, 4, shuffle=True, seed=0)
    first = torch.tensor([order(batches)[0] for _ in range(3200)])
    counts = torch.bincount(first, minlength=32).float()
    assert ((counts - 100) ** 2 / 100).sum() < 61.1  # chi-square with 31 degrees of freedom, p = 0.001
    large = BlockBatches(part_of(tmp_path, 64 * 100, 64), 256, 10, shuffle=True, seed=0)
    for _, _, labels in large:
        assert len(set((labels // 64).int().tolist())) >= 8


def test_reading_a_block_copies_nothing(tmp_path: Path) -> None:
    part = part_of(tmp_path, 1000, 64)
    for once, again in zip(part.block(3), part.block(3), strict=True):
        assert once.ctypes.data == again.ctypes.data
        assert not once.flags.owndata
        assert not once.flags.writeable
    kept = part.block(0)
    part.release()
    part.close()
    assert kept[2].tolist() == list(range(64))  # a view keeps the file mapped


def test_without_dense_features(tmp_path: Path) -> None:
    ids, dense, labels = next(iter(BlockBatches(part_of(tmp_path, 100, 8, dense=0), 10, 2)))
    assert (dense.shape, dense.dtype) == ((10, 0), torch.float32)
    assert ids[:, 0].tolist() == labels.tolist()


def test_resident_is_the_file_in_memory(tmp_path: Path) -> None:
    ids, dense, labels = resident(part_of(tmp_path, 130, 64))
    assert labels.tolist() == list(range(130))
    assert ids.dtype == torch.int32
    assert torch.equal(dense[:, 1], labels / 2)
    assert torch.equal(ids[:, 1], 2 * labels.int())
    ids[0, 0] = 9  # its own memory, not the file's
