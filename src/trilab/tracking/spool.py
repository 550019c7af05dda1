"""Where runs keep their journals (see `trilab.tracking.journal`) until the store has all of them."""

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trilab.errors import say
from trilab.tracking.journal import Busy, Journal
from trilab.tracking.secrets import redacted

_LOCAL = "local-"


@dataclass
class Birth:
    """What a run is, as `run.json` in its folder says it.

    Args:
        key: the id by which the run is known here, and in the store as its tag trilab.local_id.
        uri: of the store, without passwords.
        experiment: its name in the store.
        artifact_root: where a store on this machine is to keep the experiment's files.
        name: of the run.
        tags: that it begins with.
        start_ms: when it began, in milliseconds since 1970.
        run_id: the store's; None where the store did not give one yet.
        ended: how, once it has.
    """

    key: str
    uri: str
    experiment: str
    artifact_root: str | None
    name: str
    tags: dict[str, str] = field(default_factory=dict)
    start_ms: int = 0
    run_id: str | None = None
    ended: str | None = None

    @classmethod
    def new(cls, uri: str, experiment: str, artifact_root: str | None, name: str, tags: dict[str, str]) -> "Birth":
        key = new_local_id()
        tags = {**tags, "trilab.local_id": key}
        return cls(key, redacted(uri), experiment, artifact_root, name, tags, int(time.time() * 1000))

    def write(self, folder: Path) -> None:
        """Writes it whole or not at all."""
        part = folder / "run.json.part"
        with part.open("w") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / "run.json")

    @classmethod
    def read(cls, folder: Path) -> "Birth":
        """Raises OSError, ValueError or TypeError where there is none that makes sense."""
        return cls(**json.loads((folder / "run.json").read_text()))


def new_local_id() -> str:
    """An id for a run that has none of its store's yet; told apart from those by how it begins."""
    return f"{_LOCAL}{uuid.uuid4().hex}"


def is_local(run_id: str) -> bool:
    """Whether an id is one of `new_local_id`."""
    return re.fullmatch(rf"{_LOCAL}[0-9a-f]{{32}}", run_id) is not None


def spool_folder(given: str | None = None) -> Path:
    """The folder of all journals: the given one, else that of $TRILAB_SPOOL, else one of this user."""
    chosen = given or os.environ.get("TRILAB_SPOOL")
    if chosen:
        return Path(chosen).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path("~/.local/state").expanduser()) / "trilab" / "spool"


def begin(spool: Path, birth: Birth) -> Journal:
    """The journal of a new run; one in memory alone, with a line that says so, where the folder cannot be written."""
    folder = spool / birth.key
    try:
        folder.mkdir(parents=True, mode=0o700)
        journal = Journal(folder)
        birth.write(folder)  # only now: whoever looks for what was left behind finds it locked
        return journal
    except (OSError, RuntimeError) as error:  # Path.expanduser: no home
        say(
            f"Cannot write the spool {spool} ({error}): until the tracking store has them, metrics are in memory alone."
        )
        return Journal(None)


def waiting(spool: Path, uri: str | None = None) -> Iterator[tuple[Birth, Journal]]:
    """Opens the journals that no process has open, oldest first; whoever takes one closes or removes it.

    Args:
        spool: folder of all journals.
        uri: only those for this store.
    """
    for birth, folder in _births(spool):
        if uri is not None and birth.uri != redacted(uri):
            continue
        try:
            journal = Journal(folder)
        except (Busy, OSError):
            continue
        try:
            birth = Birth.read(folder)  # whoever had it open until now may have learnt its id
        except (OSError, ValueError, TypeError):
            journal.close()
            continue
        yield birth, journal


def held(spool: Path, uri: str) -> int:
    """How many journals for a store a process has open, which sends them itself."""
    count = 0
    for birth, folder in _births(spool):
        if birth.uri == redacted(uri):
            try:
                Journal(folder).close()
            except Busy:
                count += 1
            except OSError:
                continue
    return count


def stores(spool: Path) -> list[str]:
    """The stores that something waits for, or that runs are recorded to now, without passwords."""
    return sorted({birth.uri for birth, _ in _births(spool)})


def _births(spool: Path) -> list[tuple[Birth, Path]]:
    """Every run in the spool and its folder, oldest first."""
    found = []
    for file in spool.glob(f"{_LOCAL}*/run.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):  # just removed, or not ours
            found.append((Birth.read(file.parent), file.parent))
    return sorted(found, key=lambda one: one[0].start_ms)
