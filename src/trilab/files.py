"""Files that are written whole or not at all, or taken over from another run."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import torch

from trilab.signals import shielded


def save(content: dict[str, Any], path: Path) -> None:
    """Writes what `torch.load` reads; the file is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with shielded():
        torch.save(content, part)
        part.replace(path)


def bring(file: Path, beside: Path, folder: Path) -> Path | None:
    """Copies a file into a folder, from where it was, or else from where a file that was beside it is now.

    Returns:
        The copy; None where the file is in neither place.
    """
    for source in (file, beside / file.name):
        if source.is_file():
            target = folder / file.name
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(shutil.SameFileError):
                shutil.copyfile(source, target)
            return target
    return None
