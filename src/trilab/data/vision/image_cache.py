"""Decoded images in a file that can be mapped into memory, made once for given contents and settings.

The folder `images-<key>` holds `pixels.npy`, uint8 (n, height, width, channels), and `meta.json`. Its key is a hash of
the settings, the files' names and their contents, so that a copy of a set elsewhere is the same set. To read all files
before each run would take seconds: `state-<key>.json`, named by a hash of settings, names, sizes and times of change,
says which folder belongs to files in that state.

What is there is whole: it is written elsewhere and renamed. What another version wrote, or is damaged, is made anew.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from filelock import FileLock

from trilab.data.vision.class_folders import ClassFolders
from trilab.data.vision.decode import Decoding, Pixels
from trilab.errors import UserError, say

#: Of the files and of what decoding makes; a change of either raises it.
FORMAT = 1
_META, _PIXELS = "meta.json", "pixels.npy"


def decoded(files: ClassFolders, decoding: Decoding, threads: int, cache: Path | None) -> Pixels:
    """The images, (n, height, width, channels), decoded if they are not in the cache; then mapped, not read.

    Several processes may ask at once: one decodes, the others wait.

    Args:
        files: the images.
        decoding: what becomes of each.
        threads: that decode at once.
        cache: folder of decoded images; None for no cache.
    """
    shape = decoding(files.root / files.names[0]).shape
    if cache is None:
        out = np.empty((len(files), *shape), np.uint8)
        decoding.all(files.root, files.names, shape, out, threads)
        return out
    try:
        cache.mkdir(parents=True, exist_ok=True)
        pointer = cache / f"state-{_state_key(files, decoding)}.json"
        known = _pointed_to(pointer)
        if known is not None and not _fault_of(cache / known, len(files)):
            return _mapped(cache / known)
        key = _content_key(files, decoding)
        target = cache / f"images-{key}"
        with FileLock(cache / f"images-{key}.lock"):
            if fault := _fault_of(target, len(files)):
                if target.exists():
                    say(f"{target}: {fault}; decoding anew.")
                for left in cache.glob(f"images-{key}.part-*"):  # by a process that was killed; nobody else is at it
                    shutil.rmtree(left, ignore_errors=True)
                say(f"decoding {len(files):,} images of {files.root} into {target}, once.")
                _make(target, files, decoding, shape, threads)
            _write(pointer, json.dumps({"folder": target.name}))
        return _mapped(target)
    except OSError as error:
        raise UserError(f"data.cache={cache}: {error}.") from error


def _make(target: Path, files: ClassFolders, decoding: Decoding, shape: tuple[int, ...], threads: int) -> None:
    made = Path(tempfile.mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))
    try:
        out = np.lib.format.open_memmap(made / _PIXELS, mode="w+", dtype=np.uint8, shape=(len(files), *shape))
        decoding.all(files.root, files.names, shape, out, threads)
        out.flush()
        counts = np.bincount(files.labels, minlength=len(files.classes)).tolist()
        meta = {
            "format": FORMAT,
            "bytes": (made / _PIXELS).stat().st_size,
            "root": str(files.root),
            "classes": dict(zip(files.classes, counts, strict=True)),
            **asdict(decoding),
        }
        (made / _META).write_text(json.dumps(meta, indent=2), encoding="utf-8")
        made.chmod(0o755)  # mkdtemp's folders are for one user alone
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _fault_of(folder: Path, images: int) -> str:
    """What is wrong with a folder, or an empty string."""
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        version, size = meta["format"], meta["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"damaged ({_META} cannot be read)"
    if version != FORMAT:
        return f"written in format {version} by another version of trilab, which now writes {FORMAT}"
    try:
        if (folder / _PIXELS).stat().st_size == size and len(_mapped(folder)) == images:
            return ""
    except (OSError, ValueError):
        pass
    return f"damaged ({_PIXELS} is not as it was written)"


def _mapped(folder: Path) -> Pixels:
    # Copied on write, for torch wants what may be written to; nobody writes.
    return np.load(folder / _PIXELS, mmap_mode="c")


def _pointed_to(pointer: Path) -> str | None:
    try:
        name = json.loads(pointer.read_text(encoding="utf-8"))["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _state_key(files: ClassFolders, decoding: Decoding) -> str:
    states = (f"{name}\0{size}\0{changed}\n" for name, (size, changed) in zip(files.names, files.states, strict=True))
    return _key([f"{FORMAT}\0{files.root}\0{json.dumps(asdict(decoding))}\n", *states])


def _content_key(files: ClassFolders, decoding: Decoding) -> str:
    def parts() -> Iterable[str | bytes]:
        yield f"{FORMAT}\0{json.dumps(asdict(decoding))}\n"
        for name in files.names:
            content = (files.root / name).read_bytes()
            yield f"{name}\0{len(content)}\0"
            yield content

    return _key(parts())


def _key(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else os.fsencode(part))
    return digest.hexdigest()[:16]
