"""Items that a user does not have, to train against and to rank among: drawn whole tensors at a time, without a retry.

Implicit feedback knows only positives. He et al. 2017, Neural Collaborative Filtering, section 3.1
(https://arxiv.org/abs/1708.05031) pair each with negatives, items drawn uniformly from those that the user does not
have in training, anew in each epoch. An item held out for validation or test may be drawn as well: leaving it out
would tell the model that it is special.
"""

from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import Tensor

from trilab.data.batches import Batch, EpochBatches
from trilab.errors import UserError

#: From (n,) users and (n,) items to the network's (n, fields) ids and (n, dense) features.
Rows = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

#: A table of who has what is kept where it is no larger: drawing with it is several times as fast.
_TABLE_BYTES = 64 * 2**20
#: Rows of an epoch that are put together at once: enough to hide the operations' overhead, few enough for caches.
_BLOCK_ROWS = 2**16


class Unseen:
    """The items that each user does not have, to draw from uniformly.

    Exact without rejection: a user with the items p_0 < p_1 < ... lacks p_j - j items below p_j, so the item of rank r
    among those that are lacking is r + |{j : p_j - j <= r}|, one binary search.

    Args:
        keys: (n,) int64, user * items + item of each item that a user has, ascending and distinct.
        users: how many there are.
        items: how many there are.
        table_bytes: drawing with repetition tries a table of who has what first, where it is no larger than this.
    """

    def __init__(self, keys: Tensor, users: int, items: int, table_bytes: int = _TABLE_BYTES) -> None:
        self.items = items
        owner = keys // items
        counts = torch.bincount(owner, minlength=users)
        #: (users,) how many items each user lacks.
        self.free = items - counts
        self._starts = counts.cumsum(0) - counts  # (users,), where a user's keys begin
        position = torch.arange(len(keys)) - self._starts[owner]
        # A stride of items + 1 keeps the users apart, for p_j - j is at most `items`.
        self._gaps = owner * (items + 1) + keys % items - position  # (n,) ascending
        self._table: Tensor | None = None
        if users * items <= table_bytes:
            self._table = torch.zeros(users * items, dtype=torch.bool)
            self._table[keys] = True

    def draw(self, users: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` items for each of some users, independent of each other, as keys user * items + item.

        Args:
            users: (n,) int64, each of whom lacks an item at least.

        Returns:
            (n, count), int32 where every key fits, else int64.
        """
        dtype = torch.int32 if len(self.free) * self.items < 2**31 else torch.int64
        shape = (len(users), count)
        if self._table is None:
            return (users.unsqueeze(1) * self.items + self._lacking(users, count, generator)).to(dtype)
        # Of all items, and where the user has the drawn one, by rank instead: both are uniform over what is lacking.
        keys = torch.randint(0, self.items, shape, generator=generator, dtype=dtype)
        keys += (users * self.items).to(dtype).unsqueeze(1)
        flat = keys.view(-1)
        taken = self._table.index_select(0, flat).nonzero().squeeze(1)
        owner = users.index_select(0, taken // count)
        flat[taken] = (owner * self.items + self._lacking(owner, 1, generator).squeeze(1)).to(dtype)
        return keys

    def distinct(self, users: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` different items for each of some users: every such set is equally likely, not every order of it.

        Floyd's algorithm (Bentley & Floyd 1987, https://doi.org/10.1145/30401.315746), on ranks, for all users at once.

        Args:
            users: (n,) int64, each of whom lacks `count` items at least.

        Returns:
            (n, count) int64 items.
        """
        ranks = torch.empty(len(users), count, dtype=torch.int64)
        for column in range(count):
            last = self.free.index_select(0, users) - count + column  # (n,)
            rank = (torch.rand(len(users), generator=generator, dtype=torch.float64) * (last + 1)).long()
            repeated = (ranks[:, :column] == rank.unsqueeze(1)).any(1)
            ranks[:, column] = torch.where(repeated, last, rank)
        return self._items(users, ranks)

    def _lacking(self, users: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """(n, count) items, by rank alone."""
        uniform = torch.rand(len(users), count, generator=generator, dtype=torch.float64)
        return self._items(users, (uniform * self.free.index_select(0, users).unsqueeze(1)).long())

    def _items(self, users: Tensor, ranks: Tensor) -> Tensor:
        """(n,) users and (n, count) ranks among what they lack, to (n, count) items."""
        owned = torch.searchsorted(self._gaps, users.unsqueeze(1) * (self.items + 1) + ranks, right=True)
        return ranks + owned - self._starts.index_select(0, users).unsqueeze(1)


class NegativeBatches(EpochBatches):
    """Training batches `(ids, dense, labels)`: each positive once an epoch, and `negatives` draws of its user's.

    Negatives and order are a function of the seed and the epoch's number, drawn on the CPU and so the same on every
    device. What is kept of an epoch are two numbers a row; rows are put together on the device, in blocks.

    With weights an epoch has as many positives, but each as often as its weight says: systematic sampling (Madow
    1949, On the theory of systematic sampling, II) gives a positive of weight w either of the integers next to w, and w
    on average: no integer number can vary less.

    Args:
        keys: (n,) int64, user * items + item of each positive, ascending and distinct.
        users: how many there are.
        items: how many there are.
        negatives: drawn for each positive.
        rows: puts the network's inputs together, on `device`.
        batch_size: rows of a batch; the last batch of an epoch has what is left.
        device: of the batches.
        weights: (n,) how often each positive is in an epoch, on average, 1 in the mean; None for each once.
        shuffle: each epoch has negatives and an order of its own; otherwise every epoch is epoch 0.
        seed: of positives, where they are drawn, negatives and order.
    """

    def __init__(
        self,
        keys: Tensor,
        users: int,
        items: int,
        negatives: int,
        rows: Rows,
        batch_size: int,
        device: torch.device,
        *,
        weights: Tensor | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(len(keys) * (1 + negatives), batch_size, shuffle=shuffle, seed=seed)
        self.items = items
        self.negatives = negatives
        self.device = device
        self._keys = keys
        self._users = keys // items
        self._until = None if weights is None else weights.double().cumsum(0)
        self._rows_of = rows
        self._unseen = Unseen(keys, users, items)
        full = self._users[self._unseen.free.index_select(0, self._users) == 0]
        if len(full):
            raise UserError(
                f"user {int(full[0])} has all {items:,} items in training, so there is no negative to draw."
            )

    def epoch(self, number: int, first: int) -> Iterator[Batch]:
        keys, order = self._draw(number if self._shuffle else 0)
        start = first * self.batch_size
        block = max(1, _BLOCK_ROWS // self.batch_size) * self.batch_size
        return chain.from_iterable(self._block(keys, index) for index in order[start:].split(block))

    def _draw(self, number: int) -> tuple[Tensor, Tensor]:
        """An epoch's pairs as keys, (rows,), the positives first; and its order, (rows,)."""
        generator = self.generator(number)
        positives, users = self._keys, self._users
        if self._until is not None:
            copies = _systematic(self._until, generator)
            positives, users = positives.repeat_interleave(copies), users.repeat_interleave(copies)
        negatives = self._unseen.draw(users, self.negatives, generator)
        keys = torch.cat([positives.to(negatives.dtype), negatives.view(-1)])
        small = torch.int32 if self.rows < 2**31 else torch.int64
        order = torch.randperm(self.rows, generator=generator, dtype=small)
        return keys.to(self.device), order.to(self.device)

    def _block(self, keys: Tensor, index: Tensor) -> Iterator[Batch]:
        pairs = keys.index_select(0, index)
        users = pairs // self.items
        ids, dense = self._rows_of(users.long(), (pairs - users * self.items).long())
        labels = (index < len(self._keys)).float()
        return zip(*(part.split(self.batch_size) for part in (ids, dense, labels)), strict=True)


def _systematic(until: Tensor, generator: torch.Generator) -> Tensor:
    """(n,) how often each of n is drawn, n draws in all, in proportion to weights whose running sums these are."""
    count = len(until)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    drawn = (until / until[-1] * count + start).floor().clamp(max=count).long()
    return drawn.diff(prepend=drawn.new_zeros(1))


class CandidateBatches(EpochBatches):
    """Evaluation batches `(ids, dense, labels)` with a candidate axis: a user's own item, and those to rank it among.

    A candidate that is the user's own item once more has label -1: it is not ranked. (The negatives published with the
    NCF paper have it for 156 of 6,040 users; the paper's code ranks a dictionary of scores by item, so it vanishes.)

    Args:
        users: (n,) int64.
        candidates: (n, candidates) int64, the user's own item first.
        rows: puts the network's inputs together, on the device of `users`.
        batch_size: candidates of a batch, of all its users together; one user at least.
    """

    #: What the metrics' names begin with.
    name = ""

    def __init__(self, users: Tensor, candidates: Tensor, rows: Rows, batch_size: int) -> None:
        super().__init__(len(users), max(1, batch_size // candidates.shape[1]))
        self._users = users
        self._candidates = candidates
        self._own = candidates[:, 0]
        self._rows_of = rows

    def epoch(self, number: int, first: int) -> Iterator[Batch]:
        start = first * self.batch_size
        chunks = (part[start:].split(self.batch_size) for part in (self._users, self._candidates, self._own))
        for users, candidates, own in zip(*chunks, strict=True):
            shape = candidates.shape  # (users, candidates)
            ids, dense = self._rows_of(users.repeat_interleave(shape[1]), candidates.flatten())
            labels = self._labels(users, candidates, own)
            yield ids.view(*shape, ids.shape[1]), dense.view(*shape, dense.shape[1]), labels

    def _labels(self, users: Tensor, candidates: Tensor, own: Tensor) -> Tensor:
        labels = (candidates == own[:, None]).to(torch.int8).neg_()
        labels[:, 0] = 1
        return labels


class CatalogueBatches(CandidateBatches):
    """The same with every item as a candidate, in the order of their numbers; -1 for those the user has from before.

    Args:
        users: (n,) int64.
        own: (n,) int64, the item to find of each.
        known: (m,) int64 keys user * items + item, ascending: what is not ranked.
        items: how many there are.
        rows: puts the network's inputs together, on the device of `users`.
        batch_size: candidates of a batch, of all its users together; one user at least.
    """

    name = "full"

    def __init__(self, users: Tensor, own: Tensor, known: Tensor, items: int, rows: Rows, batch_size: int) -> None:
        catalogue = torch.arange(items, device=users.device)
        super().__init__(users, catalogue.expand(len(users), items), rows, batch_size)
        self._own = own
        self._known = known

    def _labels(self, users: Tensor, candidates: Tensor, own: Tensor) -> Tensor:
        keys = users[:, None] * candidates.shape[1] + candidates
        place = torch.searchsorted(self._known, keys).clamp_(max=len(self._known) - 1)
        labels = (self._known[place] == keys).to(torch.int8).neg_()
        return labels.scatter_(1, own[:, None], 1)
