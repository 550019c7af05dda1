"""trilab sync: send what runs could not send while their tracking store was away

usage: trilab sync [tracking.uri=URI] [tracking.spool=DIR]

A run whose store does not answer trains on, and keeps what it records in the spool: the folder tracking.spool, else
$TRILAB_SPOOL, else one of your own. This sends all of it, run by run and in order, to the stores that it is for, or to
tracking.uri alone; and it ends, as KILLED, the runs of this machine that a store still has as RUNNING though their
process is gone. Runs that still train are left alone. The spool keeps no passwords: for a store that wants one in its
URI give tracking.uri=... or set MLFLOW_TRACKING_URI.

exit code  0 nothing is left to send, 1 something is, 2 wrong arguments
"""

import os
from pathlib import Path

from rich.table import Table

from trilab.console import show
from trilab.errors import ConfigError, nearest
from trilab.tracking.secrets import redacted
from trilab.tracking.settings import sqlite_path, store_uri
from trilab.tracking.spool import held, spool_folder, stores

_ARGUMENTS = ("tracking.uri", "tracking.spool")


def main(argv: list[str]) -> int:
    """Sends, and prints a row for each run."""
    options = dict(argument.partition("=")[::2] for argument in argv)
    unknown = sorted(set(options) - set(_ARGUMENTS))
    if unknown:
        hint = nearest(unknown[0], _ARGUMENTS)
        raise ConfigError(f"sync: unknown argument '{unknown[0]}'.{hint} Allowed: tracking.uri=..., tracking.spool=...")
    spool = spool_folder(options.get("tracking.spool"))
    given = options.get("tracking.uri")
    usual = store_uri(given or os.environ.get("MLFLOW_TRACKING_URI"))
    uris = [usual] if given else _uris(spool, usual)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("store", "run", "name", "sent", "status", ""):
        table.add_column(column, overflow="fold")
    left = 0
    for uri in uris:
        for row in _rows(spool, uri):
            table.add_row(*row)
            left += bool(row[-1])
    if table.row_count:
        show(table)
    running = sum(held(spool, uri) for uri in uris)
    if left:
        print(f"{left} of {table.row_count} runs could not be sent")
    elif running:
        which = "1 running process still has" if running == 1 else f"{running} running processes still have"
        print(f"Everything is sent but what {which}, and will send.")
    else:
        print("Everything is sent.")
    return int(left > 0)


def _uris(spool: Path, usual: str) -> list[str]:
    """The stores that something waits for, with the usual one, which may have the password that the spool has not."""
    database = sqlite_path(usual)
    there = [usual] if redacted(usual) in stores(spool) or (database is not None and database.exists()) else []
    return [*there, *(uri for uri in stores(spool) if uri != redacted(usual))]


def _rows(spool: Path, uri: str) -> list[tuple[str, ...]]:
    """Of each run of a store: the store, id, name, records sent, how it ended, and what is wrong."""
    from trilab.tracking.recovery import recover

    shown = redacted(uri)
    if "***" in uri:
        return [(shown, "", "", "", "", "the spool keeps no password: give tracking.uri=...")]
    try:
        results = recover(spool, uri)
    except Exception as error:  # the store is away, or is none
        from trilab.tracking.failures import reason

        return [(shown, "", "", "", "", reason(error))]
    return [(shown, r.run_id, r.name, str(r.sent), r.status or "", r.problem or "") for r in results]
