"""A model as a folder that holds no code and no pickle: its graph, what it takes and gives, and where it is from.

about.json             the contract, the run, the versions
model.pt2              the graph (torch.export)
preprocessing.arrow    of raw rows: vocabularies and numeric transform
sides.npz              of user/item pairs: what is known of each
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trilab.data.recsys.preprocessing import Preprocessing
from trilab.errors import UserError
from trilab.serving.contract import Contract
from trilab.serving.graph import load_graph, save_graph
from trilab.serving.images import ImageBytes
from trilab.serving.observations import Observations
from trilab.serving.rows import IdRows, Pairs, RawRows

#: Of the folder; a change of what it means raises it.
FORMAT = 1
_ABOUT, _GRAPH, _PREPROCESSING, _SIDES = "about.json", "model.pt2", "preprocessing.arrow", "sides.npz"
_BY_ARGUMENTS = (Observations, ImageBytes, IdRows)


@dataclass(frozen=True)
class Origin:
    """Where a model is from."""

    run_id: str
    experiment: str
    model: str
    data: str
    trilab: str
    torch: str


@dataclass
class Served:
    """A model that answers.

    Args:
        program: from inputs to output, on `device`.
        contract: what it takes and gives.
        origin: where it is from.
        device: that it computes on.
    """

    program: nn.Module
    contract: Contract
    origin: Origin
    device: str = "cpu"

    def compute(self, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
        """The answer to inputs of the contract's; in float32."""
        with torch.inference_mode():
            output: Tensor = self.program(*(tensor.to(self.device) for tensor in inputs))
        return self.contract.answer(output)


def save(served: Served, folder: Path) -> None:
    """Writes a model of the CPU.

    Raises:
        UserError: it cannot be exported.
    """
    contract = served.contract
    save_graph(served.program, contract.frame_inputs(contract.example()), folder / _GRAPH)
    if isinstance(contract, RawRows):
        (folder / _PREPROCESSING).write_bytes(contract.preprocessing.to_bytes())
    if isinstance(contract, Pairs):
        names = ("user_ids", "item_ids", "user_dense", "item_dense")
        tensors = (*contract.side_ids, *contract.side_dense)
        np.savez(folder / _SIDES, **dict(zip(names, (tensor.numpy() for tensor in tensors), strict=True)))  # type: ignore[arg-type]
    about = {"format": FORMAT, "kind": contract.kind, "contract": contract.describe(), "origin": asdict(served.origin)}
    (folder / _ABOUT).write_text(json.dumps(about, indent=2), encoding="utf-8")


def load(folder: Path, device: str = "cpu") -> Served:
    """Reads what `save` has written; runs nothing of it.

    Raises:
        UserError: it is damaged, refused, or of another version.
    """
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise UserError(f"the model was written in format {about['format']}, and this version reads {FORMAT}.")
        contract, origin = _contract(about["kind"], about["contract"], folder), Origin(**about["origin"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder.name}: not a model that trilab registered, or a damaged one ({error}).") from None
    return Served(load_graph(folder / _GRAPH, device), contract, origin, device)


def _contract(kind: str, arguments: dict[str, Any], folder: Path) -> Contract:
    if kind == RawRows.kind:
        return RawRows(Preprocessing.from_bytes((folder / _PREPROCESSING).read_bytes()))
    if kind == Pairs.kind:
        with np.load(folder / _SIDES, allow_pickle=False) as held:
            ids = torch.from_numpy(held["user_ids"]), torch.from_numpy(held["item_ids"])
            dense = torch.from_numpy(held["user_dense"]), torch.from_numpy(held["item_dense"])
        return Pairs(ids, dense)
    for known in _BY_ARGUMENTS:
        if kind == known.kind:
            made: Contract = known(**arguments)
            return made
    raise ValueError(f"no such kind: {kind}")
