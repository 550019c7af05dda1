"""What earlier processes left behind: records that were not sent, and runs that nobody ended."""

import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from trilab.errors import UserError
from trilab.tracking.delivery import Delivery
from trilab.tracking.describe import NOTE, ended, renewed
from trilab.tracking.failures import Gone, reason
from trilab.tracking.journal import Journal
from trilab.tracking.outbox import Outbox
from trilab.tracking.process import is_gone, named, space, space_filter
from trilab.tracking.spool import Birth, waiting

_MOST = 200


@dataclass(frozen=True)
class Recovered:
    """What became of one run's journal.

    Args:
        run_id: in the store; the local one where it has none there.
        name: of the run.
        sent: records.
        status: that it ended with.
        problem: why it is not all sent.
        away: the store does not answer.
    """

    run_id: str
    name: str
    sent: int
    status: str | None
    problem: str | None = None
    away: bool = False


def send_spooled(spool: Path, uri: str, delivery: Delivery, go_on: Callable[[], bool]) -> Iterator[Recovered]:
    """Sends what waits for a store, run by run, and ends those runs whose process is gone as KILLED.

    Args:
        spool: folder of all journals.
        uri: the store, with the password that it may need.
        delivery: to it.
        go_on: asked between two requests.
    """
    away: str | None = None
    for birth, journal in waiting(spool, uri):
        outbox, sent = Outbox(birth, journal), 0
        problem = away
        try:
            if away is None and _ended(outbox):
                sent = delivery.send(outbox, go_on)
                sent += delivery.send(outbox, go_on)  # what was noted while sending
            elif away is None:
                problem = f"left to {named(birth.tags)}, which may still run"
        except Gone:
            problem = f"was deleted in the store; what it recorded is in {journal.folder}"
        except UserError as error:
            problem = reason(error)
        except Exception as error:
            problem = away = reason(error)
        if problem is None:
            if journal.is_empty():
                journal.remove()
            else:
                problem = "not all of it was sent"
        journal.close()
        yield Recovered(outbox.run_id, birth.name, sent, birth.ended, problem, away is not None)


def _ended(outbox: Outbox) -> bool:
    """Whether a run has ended; where its process is certainly gone, it has now."""
    birth = outbox.birth
    times = [birth.start_ms]
    for record in outbox.journal.unsent():
        birth.ended = record.get("end", birth.ended)
        times.append(record.get("t", 0))
    if birth.ended is None and _is_nobodys(birth, outbox.journal):
        how = _how(birth.tags)
        outbox.tags({"trilab.end": how})
        outbox.headline(ended("KILLED", how))
        outbox.end("KILLED", max(times))
    return birth.ended is not None


def _how(tags: dict[str, str]) -> str:
    return f"{named(tags)} ended without a word"


def _is_nobodys(birth: Birth, journal: Journal) -> bool:
    """Whether the process that kept a journal, and has no lock on it any more, is certainly gone.

    The process number tells it, where both are counted in the same space; on the same boot of the same kernel, from
    another container, the lock does. After a restart it is this host's name, and that nothing was written since; a lock
    on a network's file system does not prove anything about another machine.
    """
    if space() and birth.tags.get("process.space") == space():
        return is_gone(birth.tags)
    if space() and birth.tags.get("process.space", "").partition(":")[0] == space().partition(":")[0]:
        return True
    assert journal.folder is not None
    written = max((file.stat().st_mtime for file in journal.folder.glob("*.json*")), default=0.0)
    return birth.tags.get("process.host") == platform.node() and written < psutil.boot_time()


def end_orphans(client: MlflowClient) -> list[Run]:
    """Ends the runs of this machine that are RUNNING in the store though their process is gone, as KILLED."""
    if not space():
        return []
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    running = client.search_runs(experiments, space_filter(), max_results=_MOST) if experiments else []
    orphans = [run for run in running if is_gone(run.data.tags)]
    for run in orphans:
        times = [metric.timestamp for metric in run.data._metric_objs]
        how, note = _how(run.data.tags), run.data.tags.get(NOTE, "")
        client.set_tag(run.info.run_id, "trilab.end", how)
        if (new := renewed(note, ended("KILLED", how))) != note:
            client.set_tag(run.info.run_id, NOTE, new)
        client.set_terminated(run.info.run_id, "KILLED", max(times, default=run.info.start_time))
    return orphans


def recovered(spool: Path, uri: str, go_on: Callable[[], bool]) -> Iterator[Recovered]:
    """Sends what waits for a store, then ends the orphans that left nothing here; says of each run what became of it.

    Raises:
        Exception: of a store that does not answer, where nothing waits for it.
    """
    delivery, away = Delivery(uri), False
    for result in send_spooled(spool, uri, delivery, go_on):
        away = away or result.away
        yield result
    if go_on() and not away:
        for run in end_orphans(delivery.client):
            yield Recovered(run.info.run_id, run.info.run_name or "", 0, "KILLED")


def recover(spool: Path, uri: str) -> list[Recovered]:
    """All that `recovered` finds.

    Raises:
        Exception: of a store that does not answer, where nothing waits for it.
    """
    return list(recovered(spool, uri, lambda: True))


class Recovery:
    """`recover` in the background of a run that has the store open anyway."""

    def __init__(self, spool: Path, uri: str) -> None:
        #: What became of each run, so far.
        self.results: list[Recovered] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(spool, uri), name="trilab-recovery", daemon=True)
        self._thread.start()

    def _work(self, spool: Path, uri: str) -> None:
        with suppress(Exception):  # what fails here is tried again by the next command
            for result in recovered(spool, uri, lambda: not self._stopping.is_set()):
                self.results.append(result)

    def close(self, wait_s: float) -> None:
        """Lets it finish for so long, in seconds."""
        self._thread.join(wait_s)
        self._stopping.set()
