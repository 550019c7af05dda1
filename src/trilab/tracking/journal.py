"""What a run has to say, in a file: appended before it is sent, struck off when the store has it.

A journal is a folder of the run:

    run.json        what the run is: its store (without passwords), name and tags, its id once the store gave one
    journal.jsonl   a JSON object a line, in order; `{"sent": n}` strikes off everything before byte n
    files/          what is to be uploaded and would not be found where it was

A record is in the file, though not yet on the disk, when `append` returns: it survives the end of the process, in
whatever way that comes. While the store does not answer, `sync` makes it survive the end of the machine too. Where the
file cannot be written (the disk is full), records wait in memory and are written or sent when that is possible again.

Whoever has a journal open holds a lock on it, which the operating system takes back when the process ends.
"""

import contextlib
import fcntl
import json
import os
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Where more than this has been sent, in bytes, the file begins anew with what has not.
_LONG = 4_000_000
_CHUNK = 262_144
#: Seconds between two attempts to write where writing failed.
_RETRY_S = 1.0

#: A record, and the position in the file behind it.
Entry = tuple[dict[str, Any], int]


class Busy(Exception):
    """Another process, or another part of this one, has the journal open."""


class Journal:
    """An open journal.

    Args:
        folder: of the run. None keeps everything in memory.

    Raises:
        Busy: it is open elsewhere.
        OSError: there is no such folder, or it cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.failure: OSError | None = None
        self._fd = self._lock_fd = -1
        self._guard = threading.Lock()
        self._held: list[bytes] = []
        self._lent = 0
        self._next_try = 0.0
        self._read = 0
        self._forked = False
        _open.add(self)
        if folder is not None:
            self._open(folder)

    def _open(self, folder: Path) -> None:
        self._lock_fd = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_fd)
            self._lock_fd = -1
            raise Busy(str(folder)) from None
        try:
            flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(folder / "journal.jsonl", flags, 0o600)
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                os.write(self._fd, b"\n")  # whoever wrote it last was cut off in the middle of a line
            self._read = self._sent_before(size)
        except OSError:
            self.close()
            raise

    def _sent_before(self, size: int) -> int:
        """Where the records begin that were not sent."""
        sent = position = 0
        while True:
            lines, position = _lines(self._fd, position)
            if not lines:
                return min(sent, size)
            for line, _ in lines:
                if line.startswith(b'{"sent"'):
                    with contextlib.suppress(ValueError, KeyError):
                        sent = int(json.loads(line)["sent"])

    @property
    def held(self) -> int:
        """Records that wait in memory alone."""
        return len(self._held)

    def append(self, line: str) -> None:
        """Adds a record: a JSON object without line ends."""
        if self._forked:
            return  # a child of the process that the run belongs to has no say in it
        data = f"{line}\n".encode()
        with self._guard:
            if (self._held and not self._catch_up()) or not self._write(data):
                self._held.append(data)

    def _write(self, data: bytes) -> bool:
        if self._fd < 0:
            return False
        written = 0
        try:
            written = os.write(self._fd, data)
            if written == len(data):
                return True
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)  # a full disk took a part of it
            self.failure = OSError(28, "No space left on device")
        except OSError as error:
            self.failure = error
        self._next_try = time.monotonic() + _RETRY_S
        return False

    def _catch_up(self) -> bool:
        """Writes what waits in memory, if that can be; the caller has the guard."""
        if self._lent or self._fd < 0 or time.monotonic() < self._next_try:
            return False
        while self._held:
            if not self._write(self._held[0]):
                return False
            del self._held[0]
        self.failure = None
        return True

    def pending(self) -> list[Entry]:
        """The next records that were not sent, oldest first; those in memory when the file has no more."""
        if self._read > _LONG:
            with self._guard, contextlib.suppress(OSError):
                self._shorten()
        entries: list[Entry] = []
        while not entries:
            lines, after = _lines(self._fd, self._read)
            if not lines:
                break
            entries = [(record, end) for line, end in lines if (record := _parsed(line)) is not None]
            if not entries:
                self._read = after  # nothing but what was struck off
        if entries:
            return entries
        with self._guard:
            if not self._held:
                return []
            in_file = self._catch_up()
            if not in_file:
                self._lent = len(self._held)
                return [(record, -1) for line in self._held if (record := _parsed(line)) is not None]
        return self.pending()

    def size(self) -> int:
        """Where the file ends now."""
        return os.fstat(self._fd).st_size if self._fd >= 0 else 0

    def strike(self, entries: list[Entry]) -> None:
        """Takes off records that have been sent: the first ones of `pending`."""
        with self._guard:
            if entries[-1][1] < 0:
                del self._held[: len(entries)]
                self._lent = max(self._lent - len(entries), 0)
                return
            self._read = entries[-1][1]
            self._write(b'{"sent": %d}\n' % self._read)

    def _shorten(self) -> None:
        """Goes on in a file that holds only what was not sent; the caller has the guard."""
        assert self.folder is not None
        rest = os.fstat(self._fd).st_size - self._read
        if rest > _LONG // 4:
            return  # the store is behind: not now
        part = self.folder / "journal.part"
        part.write_bytes(os.pread(self._fd, rest, self._read))
        fd = os.open(part, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        part.replace(self.folder / "journal.jsonl")
        os.close(self._fd)
        self._fd, self._read = fd, 0

    def give_back(self) -> None:
        """Ends the loan of records in memory that `pending` began, where they could not be sent."""
        with self._guard:
            self._lent = 0

    def unsent(self) -> Iterator[dict[str, Any]]:
        """Every record that was not sent, without striking any off."""
        with self._guard:
            held, position = list(self._held), self._read
            fd = os.dup(self._fd) if self._fd >= 0 else -1  # whoever sends may begin a new file, or close this one
        try:
            lines, position = _lines(fd, position)
            while lines:
                yield from (record for line, _ in lines if (record := _parsed(line)) is not None)
                lines, position = _lines(fd, position)
        finally:
            if fd >= 0:
                os.close(fd)
        yield from (record for line in held if (record := _parsed(line)) is not None)

    def is_empty(self) -> bool:
        """Whether everything has been sent."""
        return next(self.unsent(), None) is None

    def sync(self) -> None:
        """Has everything that was appended written to the disk."""
        with self._guard:
            if self._held:
                self._catch_up()
        with contextlib.suppress(OSError):
            if self._fd >= 0:
                os.fsync(self._fd)

    def close(self) -> None:
        """Gives the journal free for others. What was not sent stays in it."""
        with self._guard:
            for fd in (self._fd, self._lock_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._lock_fd = -1

    def remove(self) -> None:
        """Removes the journal, of which everything was sent."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)  # while it is locked: nobody may open what is half removed
        self.close()

    def _leave(self) -> None:
        """In the child of a fork: the lock is the parent's, and ends with the parent."""
        self._forked = True
        self._guard = threading.Lock()
        self._held = []
        self.close()


def _lines(fd: int, position: int) -> tuple[list[tuple[bytes, int]], int]:
    """Whole lines from a position on with where each ends, and where the last one does."""
    if fd < 0:
        return [], position
    size = _CHUNK
    while True:
        data = os.pread(fd, size, position)
        end = data.rfind(b"\n") + 1
        if end or len(data) < size:
            break
        size *= 4
    lines = []
    for line in data[:end].splitlines(keepends=True):
        position += len(line)
        lines.append((line, position))
    return lines, position


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A record; None for a line that strikes off, or that was cut off."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "sent" not in record else None


_open: "weakref.WeakSet[Journal]" = weakref.WeakSet()


def _after_fork() -> None:
    for journal in list(_open):
        journal._leave()


os.register_at_fork(after_in_child=_after_fork)
