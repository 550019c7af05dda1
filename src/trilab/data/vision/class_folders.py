"""Images by class folder: `<root>/<class>/**/*.jpg`. Finds them without reading any."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trilab.data.vision.decode import SUFFIXES
from trilab.errors import UserError, nearest


@dataclass(frozen=True)
class ClassFolders:
    """The image files below the class folders of a root, sorted by class and name."""

    root: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]  # (n,), of the files relative to the root
    labels: NDArray[np.int64]  # (n,)
    states: tuple[tuple[int, int], ...]  # (n,), bytes and time of change in ns of each file

    def __len__(self) -> int:
        return len(self.names)


def find_folder(root: Path, name: str) -> Path:
    """The folder `name` of a set.

    Raises:
        UserError: it is not there.
    """
    if not root.is_dir():
        siblings = _folders(root.parent) if root.parent.is_dir() else []
        raise UserError(f"data.root={root}: there is no such folder.{nearest(root.name, siblings)}")
    if not (folder := root / name).is_dir():
        raise UserError(
            f"data.train={name}: there is no such folder in {root}, which holds {_some(_folders(root))}."
            f"{nearest(name, _folders(root))} Set data.train=. where that are the class folders."
        )
    return folder


def find_images(root: Path, exclude: Path | None = None) -> ClassFolders:
    """The images of the class folders in a root. Names that begin with a dot are left out.

    Args:
        root: holds a folder for each class.
        exclude: a folder in it that is no class.

    Raises:
        UserError: there are no two classes with an image each.
    """
    classes = [name for name in _folders(root) if exclude is None or root / name != exclude]
    if not classes:
        raise UserError(f"{root}: no class folders. Expected {root / '<class>' / '*.jpg'}, a folder for each class.")
    if len(classes) == 1:
        raise UserError(f"{root}: a single class folder, '{classes[0]}'. To tell classes apart takes two at least.")
    names: list[str] = []
    states: list[tuple[int, int]] = []
    counts = []
    for name in classes:
        found = sorted(_images(root / name, name))
        if not found:
            kinds = ", ".join(sorted(SUFFIXES))
            raise UserError(f"{root / name}: no images ({kinds}). Add some, or delete the folder.")
        names += [file for file, _ in found]
        states += [state for _, state in found]
        counts.append(len(found))
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    return ClassFolders(root, tuple(classes), tuple(names), labels, tuple(states))


def same_classes(train: ClassFolders, test: ClassFolders) -> None:
    """Raises UserError where one has a class that the other has not."""
    for having, lacking in ((train, test), (test, train)):
        if extra := sorted(set(having.classes) - set(lacking.classes)):
            hint = nearest(extra[0], lacking.classes)
            raise UserError(f"{lacking.root} has no class '{extra[0]}', which {having.root} has.{hint}")


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _images(folder: Path, prefix: str) -> list[tuple[str, tuple[int, int]]]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{prefix}/{entry.name}"
            if entry.is_dir():
                found += _images(folder / entry.name, name)
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 - a Path for each is slow
                state = entry.stat()
                found.append((name, (state.st_size, state.st_mtime_ns)))
    return found


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "no folders"
