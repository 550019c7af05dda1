"""What downloads through torchvision have in common."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from tarfile import TarError

#: A host that does not answer is given up after so many seconds; urllib would wait minutes.
_TIMEOUT_S = 20.0


def attempt(download: Callable[[], object]) -> str:
    """Runs a download of torchvision's; why it failed, or an empty string."""
    try:
        with _timeout(_TIMEOUT_S):
            download()
    except (OSError, RuntimeError, HTTPException, TarError) as error:  # URLError is an OSError
        # torchvision tells of each mirror on a line of its own; the last says it.
        return f"the download failed ({(str(error).strip() or repr(error)).splitlines()[-1]})"
    return ""


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
