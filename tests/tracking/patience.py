"""Waiting for what waits for a store."""

import os
import time
from pathlib import Path

from trilab.commands import sync


def send_all() -> None:
    """Has all that waits sent: by `trilab sync`, or by a thread of the run's own that has it open still."""
    spool, deadline = Path(os.environ["TRILAB_SPOOL"]), time.monotonic() + 60
    while any(spool.glob("local-*")):
        assert time.monotonic() < deadline, "it still waits"
        assert sync.main([]) == 0
        time.sleep(0.05)
