"""Processes of their own, of trilab and of a few lines of code, that have imported their packages already.

A process takes seconds to import torch, Lightning and MLflow, most of what a short run takes, and the tests start many.
Here one process imports them and forks for each command, so that a test has a real process - its own id, signals, exit
code, output and environment - in milliseconds. It is told apart from a fresh one only by what it need not import: a
test of the start itself starts the real thing.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

_NUMBER = struct.Struct("!I")
#: A process file descriptor tells of a child's end without a signal; where there is none, the real thing is started.
_FORKS = hasattr(os, "pidfd_open")


class Python(subprocess.Popen[str]):
    """`python -m MODULE ARGUMENTS` or `python -c CODE ARGUMENTS`, as `subprocess.Popen` starts it.

    Args:
        arguments: of the command line, the first of them -m or -c.
        cwd: the folder that it works in; None for that of this process.
        env: its environment; None for that of this process.
        stdin, stdout, stderr: as those of `Popen`.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = subprocess.STDOUT,
    ) -> None:
        self._ends: socket.socket | None = None
        super().__init__(list(arguments), cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, text=True)

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        """Has the warm process fork where `Popen` would fork and execute."""
        if not _FORKS:
            super()._execute_child([sys.executable, *args], *rest)
            return
        cwd, env = rest[4:6]
        given: tuple[int, ...] = rest[9:15]
        files = [own if end == -1 else end for own, end in enumerate((given[0], given[3], given[5]))]
        try:
            self.pid, self._ends = _warm().start(args, cwd or Path.cwd(), os.environ if env is None else env, files)
            self._child_created = True
        finally:
            self._close_pipe_fds(*given)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        with self._waitpid_lock:
            if self.returncode is None:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        """How the process has ended, in the words of `os.waitpid`: only its parent can wait for it, and tells."""
        if self._ends is None:
            return super()._try_wait(flags)
        if flags & os.WNOHANG and not select.select([self._ends], [], [], 0)[0]:
            return 0, 0
        told = self._ends.recv(_NUMBER.size)
        self._ends.close()
        # Without a word the warm process itself has died, and its children with it.
        return self.pid, _NUMBER.unpack(told)[0] if told else signal.SIGKILL


class Trilab(Python):
    """`trilab ARGUMENTS` in a folder; the rest as of `Python`."""

    def __init__(self, *arguments: str, cwd: Path, **rest: Any) -> None:
        super().__init__("-m", "trilab", *arguments, cwd=cwd, **rest)


def run(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """`trilab ARGUMENTS`, to its end, as `subprocess.run` with the output captured."""
    with Trilab(*arguments, cwd=cwd, env=env, stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(list(arguments), process.returncode, out, err)


class _Warm:
    """The process that forks, as the tests see it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], files: Sequence[int]
    ) -> tuple[int, socket.socket]:
        """Forks, with files as standard input, output and error.

        Returns:
            The id of the new process, and a socket on which its end will be told.
        """
        ours, theirs = socket.socketpair()
        message = json.dumps([list(arguments), str(cwd), dict(env)]).encode()
        with theirs:
            socket.send_fds(self._socket, [_NUMBER.pack(len(message))], [theirs.fileno(), *files])
            self._socket.sendall(message)
        return _NUMBER.unpack(_exactly(self._socket, _NUMBER.size))[0], ours


_started: dict[int, _Warm] = {}


def children() -> list[psutil.Process]:
    """The children of this process, with those of the warm one in its place."""
    found = psutil.Process().children()
    if (kept := _started.get(os.getpid())) is not None:
        found = [child for child in found if child.pid != kept.pid]
        found += psutil.Process(kept.pid).children()
    return found


def _warm() -> _Warm:
    """That of this process: a fork of it must not talk to its parent's."""
    if os.getpid() not in _started:
        _started[os.getpid()] = _Warm()
    return _started[os.getpid()]


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _serve(connection: socket.socket) -> list[str]:
    """Forks for each message; returns in the forked process, with the arguments of its command line."""
    children: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready in select.select([connection, *children], [], [])[0]:
            if ready is not connection:
                pid, told = children.pop(ready)
                with told, contextlib.suppress(OSError):  # the test may be over
                    told.sendall(_NUMBER.pack(os.waitpid(pid, 0)[1]))
                os.close(ready)
                continue
            try:
                length, files, _, _ = socket.recv_fds(connection, _NUMBER.size, 4)
                arguments, cwd, environment = json.loads(_exactly(connection, _NUMBER.unpack(length)[0]))
            except (EOFError, struct.error):  # the tests have ended
                sys.exit()
            pid = os.fork()
            if not pid:
                for file in (*children, *files[:1], connection.detach()):
                    os.close(file)
                for _, told in children.values():
                    told.close()
                _become(Path(cwd), environment, files[1:])
                return list(arguments)
            children[os.pidfd_open(pid)] = pid, socket.socket(fileno=files[0])
            for file in files[1:]:
                os.close(file)
            connection.sendall(_NUMBER.pack(pid))


def _become(cwd: Path, environment: dict[str, str], files: Sequence[int]) -> None:
    """What a new process has of its own."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    # They are to be open until the process ends, as those that they replace.
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None
    random.seed()
    sys.path[0] = str(cwd)  # as `python -m` has it


#: What a run imports when it comes to it: to write its store and its model.
_LATE = ("sqlalchemy.dialects.sqlite", "mlflow.pyfunc", "torch.export._trace", "torch.export.pt2_archive._package")


def _import_everything() -> None:
    from trilab.runtime import prepare_imports

    prepare_imports()
    import trilab

    own = [module.name for module in pkgutil.walk_packages(trilab.__path__, "trilab.")]
    for name in (*own, *_LATE):
        if not name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of an optional package, or of another torch
                importlib.import_module(name)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, whose end is this one's
    _import_everything()
    gc.freeze()  # else the first collection of each child copies every page
    how, what, *sys.argv[1:] = _serve(socket.socket(fileno=int(sys.argv[1])))
    code: Any = 0
    try:
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(what, {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
    # The end of an interpreter, but for clearing every module, which takes a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
