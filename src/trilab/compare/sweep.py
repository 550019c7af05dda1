"""The comparison that a sweep ends with."""

import shlex
from pathlib import Path

from mlflow import MlflowClient

from trilab.compare.comparison import Options, compare
from trilab.compare.find import select
from trilab.compare.write import log, write
from trilab.errors import UserError, say
from trilab.tracking.failures import reason
from trilab.tracking.secrets import redacted
from trilab.tracking.spool import is_local


def compare_sweep(client: MlflowClient, run_id: str, folder: Path) -> None:
    """Compares the runs of a sweep, writes the page into a folder, and logs it to the sweep's own run.

    What it reads is bounded (`trilab.compare.curves.MOST_HISTORIES`), and nothing that fails here ends the sweep: it
    is told in a line. Call it when the store has all that the sweep's run recorded: its description is read, and
    added to.

    Args:
        client: of the store.
        run_id: of the sweep's own run.
        folder: for the files.
    """
    if is_local(run_id):  # the store was away, and has none of the runs yet
        return
    try:
        selection = select(client, [run_id], redacted(client.tracking_uri))
        comparison = compare(selection, Options())
        files = write(client, comparison, shlex.join(["trilab", "compare", selection.title]), folder)
        log(client, run_id, comparison, files)
        for line in comparison.verdicts():
            print(line)
        print(f"compared: {files[0]}")
    except UserError as error:
        say(str(error))
    except Exception as error:
        say(f"the runs could not be compared: {type(error).__name__}: {reason(error)}")
