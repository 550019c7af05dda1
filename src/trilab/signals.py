"""Signals that end a process, as one exception: the run gets its true status, and the shell the usual exit code."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGHUP: the terminal was closed. Not on Windows.
_HANDLED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(BaseException):
    """The process was asked to stop. Not an Exception: nothing that goes on after an error may go on after this."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.signum


_shield_depth = 0
_pending: int | None = None
_received: int | None = None


def interruption() -> Interrupted | None:
    """What has asked this process to stop, if anything has.

    Code that the exception cuts in two may swallow it, or raise an error of its own in its place. So whoever decides
    how a run ended asks here too.
    """
    return None if _received is None else Interrupted(_received)


def _handle(signum: int, frame: FrameType | None) -> None:
    global _pending, _received
    if _received is not None:
        if signum == signal.SIGINT:  # asked twice: whatever is still being saved takes too long
            sys.stderr.write("trilab: stopped at once; what was not yet saved is lost\n")
            os._exit(128 + signum)
        return
    _received = signum
    if _shield_depth:
        _pending = signum
        return
    raise Interrupted(signum)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turns the signals into `Interrupted` inside; the old handlers come back at the end.

    A signal that is ignored stays ignored: `nohup` asks for that.
    """
    global _pending, _received
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers; a worker's parent has set them
        return
    heeded = [signum for signum in _HANDLED if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, _handle) for signum in heeded}
    _pending = _received = None
    try:
        yield
    except BaseException as error:
        stopped = interruption()
        # A SystemExit was decided on with the signal in view: a server that Ctrl-C is the usual way to stop.
        if stopped is not None and not isinstance(error, Interrupted | SystemExit):
            raise stopped from error
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _pending = _received = None


@contextmanager
def shielded() -> Iterator[None]:
    """Holds back a signal that arrives inside until the end, so that a write to the store is never cut in two."""
    global _shield_depth, _pending
    _shield_depth += 1
    try:
        yield
    finally:
        _shield_depth -= 1
        if _shield_depth == 0 and _pending is not None:
            signum, _pending = _pending, None
            raise Interrupted(signum)
