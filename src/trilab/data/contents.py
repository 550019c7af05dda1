"""What a data module says of the data that it holds, for whoever records what a run was trained on."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Rows of a part that its key is made of: a large part need not be read for it.
_ROWS = 1000


@dataclass(frozen=True)
class Part:
    """One part of the data: what is trained, validated or tested on.

    Args:
        profile: how much there is, by what it is counted in, and what else tells it from another.
        key: hexadecimal digits that change where the content does.
    """

    profile: Mapping[str, int | float | str]
    key: str


@dataclass(frozen=True)
class Contents:
    """All parts of the data, and what each row of them looks like.

    Args:
        parts: by name: `train`, `val`, `test`.
        columns: name and dtype of each, where rows are of a table.
        features: dtype and shape of what a model is given, where it is an array.
        targets: the same of what it is to find.
    """

    parts: Mapping[str, Part]
    columns: tuple[tuple[str, str], ...] = ()
    features: tuple[str, tuple[int, ...]] | None = None
    targets: tuple[str, tuple[int, ...]] | None = None


def content_key(tensors: Iterable[Tensor]) -> str:
    """Of the shapes and dtypes of tensors, and of up to 1000 evenly spaced rows of each."""
    digest = hashlib.sha256()
    for tensor in tensors:
        rows = torch.arange(0, len(tensor), max(1, len(tensor) // _ROWS), device=tensor.device)
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.index_select(0, rows).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def settings_key(values: Any) -> str:
    """Of what data are made from, where looking at all of them would take long: files, or an environment."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
