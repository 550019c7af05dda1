"""A program as a graph in a file (torch.export, `.pt2`), read back without running anything but it.

`torch.export.load` unpickles what an archive says is pickled, and evaluates the expressions of its sizes. A file may
come from a store that others write to, so it is looked through first: only plain tensors, and only expressions of sizes
as torch writes them.
"""

import io
import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trilab.errors import UserError

_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt"
)
#: What an expression of a size may be made of: sympy's own names for arithmetic, numbers, and symbols of sizes.
_NAMES = {"Symbol", "Integer", "Add", "Mul", "Pow", "Mod", "FloorDiv", "Max", "Min", "positive", "integer",
          "nonnegative", "True", "False"}  # fmt: skip
_WORD = re.compile(r"[A-Za-z_]\w*")
_EXPRESSION = re.compile(r"[\w\s()+\-*/,='<>]*")


def save_graph(program: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Exports a program whose inputs share their first axis, of any length.

    Args:
        program: on the CPU.
        example: its inputs, two rows at least.
        path: of the file.

    Raises:
        UserError: torch cannot export it.
    """
    rows = torch.export.Dim("rows")
    try:
        with torch.no_grad():
            exported = torch.export.export(program, example, dynamic_shapes=tuple({0: rows} for _ in example))
    except Exception as error:  # of many kinds, by what the network does
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"torch.export cannot make a graph of the model: {first[:300]}") from error
    exported.example_inputs = None  # they would be pickled
    with warnings.catch_warnings():
        # Weights whose memory is laid out as channels_last are a group without a whole one to it; they are saved whole.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(exported, path)


def load_graph(path: Path, device: str) -> nn.Module:
    """The program, on a device.

    Raises:
        UserError: the file is damaged, or holds more than a graph and tensors.
    """
    try:
        check_graph(path)
        exported = torch.export.load(path)
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            exported = move_to_device_pass(exported, device)
        return exported.module()
    except (OSError, KeyError, ValueError, RuntimeError, AssertionError, zipfile.BadZipFile) as error:
        raise UserError(f"{path.name}: not a graph that can be read: {' '.join(str(error).split())[:200]}") from error


def check_graph(path: Path) -> None:
    """Refuses an archive with anything in it that could run code.

    Raises:
        UserError: there is such a thing.
        zipfile.BadZipFile: it is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names) or len({name.partition("/")[0] for name in names}) != 1:
            raise UserError(f"{path.name} is refused: two of its records have one name.")
        for name in names:
            record = name.partition("/")[2]
            if not _RECORDS.fullmatch(record):
                raise UserError(f"{path.name} is refused: {record} is no part of a graph with plain tensors.")
            if record.endswith("_config.json") and _pickled(json.loads(archive.read(name))):
                raise UserError(f"{path.name} is refused: it holds pickled objects.")
            if record == "models/model.json":
                _check_expressions(json.loads(archive.read(name)), path)
            if record.startswith("data/sample_inputs/") and archive.getinfo(name).file_size:
                _check_inputs(archive.read(name), path)


def _pickled(node: Any) -> bool:
    if isinstance(node, dict):
        return bool(node.get("use_pickle")) or any(_pickled(value) for value in node.values())
    return isinstance(node, list) and any(_pickled(value) for value in node)


def _check_expressions(node: Any, path: Path) -> None:
    if isinstance(node, dict):
        text = node.get("expr_str", "")
        words = set(_WORD.findall(text)) - _NAMES if isinstance(text, str) else {"?"}
        if not _EXPRESSION.fullmatch(str(text)) or not all(re.fullmatch(r"[su]\d+", word) for word in words):
            raise UserError(f"{path.name} is refused: {text!r} is not the size of anything.")
        for value in node.values():
            _check_expressions(value, path)
    elif isinstance(node, list):
        for value in node:
            _check_expressions(value, path)


def _check_inputs(content: bytes, path: Path) -> None:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        raise UserError(f"{path.name} is refused: it holds pickled objects.") from None
