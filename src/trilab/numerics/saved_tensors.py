"""The memory that forward passes keep for the backward pass, counted by autograd's own hooks."""

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

#: Bytes of one dtype kept as what layers computed, or as copies of weights that autocast made in another dtype.
Kind = Literal["activation", "weight copy"]
#: How many views (transposed, permuted) may lie between a cast of a weight and what is kept of it.
_VIEWS = 4


class Part(NamedTuple):
    """What is counted apart."""

    kind: Kind
    dtype: torch.dtype


class SavedTensors:
    """While it is entered, counts what forward passes keep. It changes no number that is computed.

    Memory that several layers keep is counted once, over the stretch of it that they keep. The weights themselves,
    which are there anyway, are not counted. Inputs that a layer keeps are, and so are integers: where the maximum of a
    pool was, which row of a table was looked up.

    Args:
        weights: parameters of what runs.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._weights = {_storage(weight) for weight in weights}
        self._stretches: dict[int, _Stretch] = {}  # by storage
        self._now: dict[Part, int] = {}
        self._total = self._peak_total = 0
        self._peak: dict[Part, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)

    @property
    def peak(self) -> Mapping[Part, int]:
        """Bytes by part, when most were kept at once. Each backward pass gives back what its forward pass kept."""
        return dict(self._peak)

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _pack(self, tensor: Tensor) -> "Tensor | _Kept":
        if tensor.layout is not torch.strided or not tensor.numel() or _storage(tensor) in self._weights:
            return tensor.detach()
        storage = _storage(tensor)
        if storage not in self._stretches:
            kind: Kind = "weight copy" if self._is_cast(tensor) else "activation"
            self._stretches[storage] = _Stretch(Part(kind, tensor.dtype))
        stretch = self._stretches[storage]
        stretch.users += 1
        self._add(stretch.part, stretch.extend(tensor))
        return _Kept(tensor.detach(), self, storage)

    def release(self, storage: int) -> None:
        """One of those that kept this memory has let go of it."""
        stretch = self._stretches[storage]
        stretch.users -= 1
        if not stretch.users:
            self._add(stretch.part, -stretch.bytes)
            del self._stretches[storage]

    def _add(self, part: Part, size: int) -> None:
        self._now[part] = self._now.get(part, 0) + size
        self._total += size
        if self._total > self._peak_total:
            self._peak_total, self._peak = self._total, {own: held for own, held in self._now.items() if held}

    def _is_cast(self, tensor: Tensor) -> bool:
        """Whether it is a weight in another dtype, seen through views of it."""
        node = tensor.grad_fn
        for _ in range(_VIEWS):
            if node is None or len(node.next_functions) != 1:
                return False
            (source, _), is_copy = node.next_functions[0], node.name().startswith("ToCopy")
            if is_copy:
                weight = getattr(source, "variable", None)
                return weight is not None and _storage(weight) in self._weights
            node = source
        return False


class _Stretch:
    """A part of a storage, from the first to the last byte that is kept."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.users = 0
        self._first, self._end = 0, 0

    @property
    def bytes(self) -> int:
        return self._end - self._first

    def extend(self, tensor: Tensor) -> int:
        """Reaches over a tensor too; returns by how many bytes it grew."""
        before, size = self.bytes, tensor.element_size()
        first = int(tensor.storage_offset()) * size
        reach = sum((length - 1) * int(stride) for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
        end = int(first + (reach + 1) * size)
        self._first, self._end = (min(self._first, first), max(self._end, end)) if before else (first, end)
        return self.bytes - before


class _Kept:
    """Stands for a tensor in autograd's graph, and says when the graph lets go of it."""

    def __init__(self, tensor: Tensor, counter: SavedTensors, storage: int) -> None:
        self.tensor, self._counter, self._storage = tensor, counter, storage

    def __del__(self) -> None:
        self._counter.release(self._storage)


def _unpack(kept: "Tensor | _Kept") -> Tensor:
    return kept.tensor if isinstance(kept, _Kept) else kept


def _storage(tensor: Tensor) -> int:
    """Which memory it lies in; unlike its address, of tensors without memory too."""
    return int(tensor.untyped_storage()._cdata)
