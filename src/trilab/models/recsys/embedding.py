"""One embedding table for all categorical fields, trained densely or row by row."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trilab.errors import UserError


@dataclass(frozen=True)
class Lookup:
    """Rows that a forward pass has read, once each, and through which their gradients come back."""

    index: Tensor  # (unique,), row numbers, ascending
    rows: Tensor  # (unique, sum of columns), a leaf: its `grad` holds the sum over all that looked a row up
    of_all: bool = False  # whether it is what all ranks of a run have read


class FusedEmbedding(nn.Module):
    """A table with the ids of field f in the rows from offset_f on: one lookup for all fields.

    A row may hold several vectors that a model keeps apart (a weight and a factor, say); their widths are `columns`.

    With a dense optimiser the table is a parameter as any other, and each step costs as much as the table is large.
    One of `trilab.models.recsys.row_optimizers` sets `by_row`: a training pass then reads each row that it needs once,
    detached, into a small tensor; duplicates are summed by the backward pass of the expansion; and the optimiser
    updates those rows alone. No sparse tensor is made, so gradient scaling, clipping and every device work as usual.

    Args:
        cardinalities: ids of each field.
        columns: width of each vector of a row.
        std: standard deviation of the initial values.
    """

    offsets: Tensor

    def __init__(self, cardinalities: Sequence[int], columns: Sequence[int], std: float) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.cardinalities = tuple(cardinalities)
        starts = [0, *accumulate(cardinalities)]
        if starts[-1] >= 2**31:
            raise UserError(
                f"The data's fields have {starts[-1]:,} ids in total, and a table has at most {2**31 - 1:,} rows. "
                "Raise data.min_count, so that rare values share a row."
            )
        self.weight = nn.Parameter(torch.empty(starts[-1], sum(columns)).normal_(std=std))
        self.register_buffer("offsets", torch.tensor(starts[:-1]), persistent=False)
        self.by_row = False
        #: What training passes have read since the optimiser last stepped.
        self.lookups: list[Lookup] = []
        #: Whether training passes add the sum of squares of all that they look up to `squares`, for a penalty.
        self.sums_squares = False
        self.squares: list[Tensor] = []

    def field(self, number: int) -> Tensor:
        """The rows of one field, (cardinality, sum of columns): a view without gradient, to initialise it by."""
        start = int(self.offsets[number])
        return self.weight.detach()[start : start + self.cardinalities[number]]

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, fields) ids, each from 0 within its field, to (batch, fields, sum of columns)."""
        (values,) = self._read(ids, (sum(self.columns),))
        return values

    def vectors(self, ids: Tensor) -> tuple[Tensor, ...]:
        """The same with each of the columns apart: (batch, fields, width) for each width.

        Cheaper than slices of `forward`'s result, whose gradients have to be put together again.
        """
        return self._read(ids, self.columns)

    def _read(self, ids: Tensor, widths: tuple[int, ...]) -> tuple[Tensor, ...]:
        index = ids + self.offsets  # (batch, fields)
        training = self.training and torch.is_grad_enabled()
        if self.by_row and training:
            runs = Runs.of(index.flatten())
            rows = self.weight.detach().index_select(0, runs.index).requires_grad_()
            self.lookups.append(Lookup(runs.index, rows))
            parts = _Expand.apply(rows, widths, runs.inverse, runs.order, runs.starts)
            values = tuple(part.view(*index.shape, -1) for part in parts)
        else:
            values = F.embedding(index, self.weight).split(widths, 2)
        if self.sums_squares and training:
            self.squares.append(torch.stack([value.square().sum() for value in values]).sum())
        return values


@dataclass(frozen=True)
class Runs:
    """Equal numbers of a list, brought together.

    Sums over them in this order are one pass that all cores share, where adding up in place is serial, and come out the
    same each time.
    """

    index: Tensor  # (unique,), the numbers, ascending
    inverse: Tensor  # (n,), which of them each of the list is
    order: Tensor  # (n,), places of the list in the order of their numbers
    starts: Tensor  # (unique,), where in that order each number begins

    @classmethod
    def of(cls, index: Tensor) -> "Runs":
        """Of an (n,) int64 list."""
        ascending, order = index.to(torch.int32).sort(stable=True)  # no table has 2^31 rows; faster than int64
        first = torch.ones_like(ascending, dtype=torch.bool)
        torch.ne(ascending[1:], ascending[:-1], out=first[1:])
        starts = first.nonzero().flatten()
        inverse = torch.empty_like(order).scatter_(0, order, first.cumsum(0) - 1)
        return cls(ascending.index_select(0, starts).long(), inverse, order, starts)

    def sums(self, values: Tensor) -> Tensor:
        """(n, width) values of the list to (unique, width), their sums."""
        return F.embedding_bag(self.order, values, self.starts, mode="sum")


class _Expand(torch.autograd.Function):
    """Rows to where they are needed, their columns apart; backward, the sum of the gradients of each row."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, widths: tuple[int, ...], inverse: Tensor, order: Tensor, starts: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(order, starts)
        return tuple(part.index_select(0, inverse) for part in rows.split(widths, 1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        order, starts = ctx.saved_tensors
        sums = [F.embedding_bag(order, grad.contiguous(), starts, mode="sum") for grad in grads]
        return torch.cat(sums, 1), None, None, None, None
