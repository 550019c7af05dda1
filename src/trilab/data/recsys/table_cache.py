"""Folders that are made once for given settings and inputs: whole or not at all, and made anew where they are damaged.

The name of a folder is a hash of the settings, with path, size and time of change of each input file. So an edited
file, or another knob, is another folder. Contents are not hashed: that would read all of a set that is larger than
memory before each run.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from trilab.data.recsys.preprocessing import Preprocessing
from trilab.data.recsys.table_format import TableSettings
from trilab.data.recsys.table_parts import TablePart
from trilab.errors import UserError, say

#: Of the files in a folder; a change of what they mean raises it.
FORMAT = 1
_META = "meta.json"
#: The file with what turns raw rows into ids and dense features.
PREPROCESSING = "preprocessing.arrow"


def key_of(settings: TableSettings) -> str:
    """Sixteen hexadecimal digits for settings and the state of their files."""
    states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in settings.files]
    return hashlib.sha256(json.dumps([settings.as_dict(), states], sort_keys=True).encode()).hexdigest()[:16]


def cached(folder: Path, key: str, settings: TableSettings, make: Callable[[Path], Mapping[str, int]]) -> Path:
    """The folder of that key below `folder`; made if it is not there, or not as it should be.

    Several processes may ask at once: one makes it, the others wait.

    Args:
        folder: of all keys.
        key: of `key_of`.
        settings: written beside the data, for people.
        make: writes the files into an empty folder and returns the rows of each part.
    """
    target = folder / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            if target.exists():
                if not (fault := fault_of(target)):
                    return target
                say(f"{target}: {fault}; converting anew.")
            else:
                say(f"converting the table into {target}, once for these files and settings.")
            for left in folder.glob(f"{key}.part-*"):  # by a process that was killed; nobody else is at it now
                shutil.rmtree(left, ignore_errors=True)
            _make(target, settings, make)
    except OSError as error:
        raise UserError(f"data.cache={folder}: {error}.") from error
    return target


def fault_of(folder: Path) -> str:
    """What is wrong with a folder, or an empty string."""
    if not folder.is_dir():
        return "not there"
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        version, files, rows = meta["format"], meta["files"], meta["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"damaged ({_META} cannot be read)"
    if version != FORMAT:
        return f"written in format {version} by another version of trilab, which now writes {FORMAT}"
    for name, size in files.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            return f"damaged ({name}: {'not there' if found is None else f'{found:,} bytes'}, expected {size:,} bytes)"
    try:
        Preprocessing.from_bytes((folder / PREPROCESSING).read_bytes())
    except UserError:
        return f"damaged ({PREPROCESSING} cannot be read)"
    for name, count in rows.items():
        try:
            part = TablePart(folder / f"{name}.arrow")
        except (pa.ArrowInvalid, OSError, ValueError, KeyError):
            return f"damaged ({name}.arrow is no Arrow file)"
        if part.rows != count:
            return f"damaged ({name}.arrow: {part.rows:,} rows, expected {count:,})"
        part.close()
    return ""


def _make(target: Path, settings: TableSettings, make: Callable[[Path], Mapping[str, int]]) -> None:
    made = Path(tempfile.mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))
    try:
        rows = make(made)
        files = {path.name: path.stat().st_size for path in sorted(made.iterdir()) if path.is_file()}
        shutil.rmtree(made / "scratch", ignore_errors=True)
        meta = {"format": FORMAT, "rows": dict(rows), "files": files, "settings": settings.as_dict()}
        (made / _META).write_text(json.dumps(meta, indent=2), encoding="utf-8")
        made.chmod(0o755)  # mkdtemp's folders are for one user alone
        if target.exists():
            target.rename(made / "replaced")  # goes with what is left of it below
        made.rename(target)
        shutil.rmtree(target / "replaced", ignore_errors=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)
