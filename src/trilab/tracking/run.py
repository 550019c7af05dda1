"""The life of an MLflow run: opened before anything is built, ended with what really happened.

A run may have members: several trained as one, each with a run of its own under this one. They are opened after it and
end with it, all of them with the same status.

What a run records goes to its journal at once and to the store in the background (`trilab.tracking.sender`), so that
the training waits for no store, and nothing is lost where that is away: `trilab sync` sends it later.
"""

import contextlib
import getpass
import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from trilab.errors import UserError, say
from trilab.signals import Interrupted, interruption, shielded
from trilab.tracking.delivery import Delivery
from trilab.tracking.describe import ended
from trilab.tracking.failures import Unreachable, is_outage, reason
from trilab.tracking.monitor import SystemMonitor
from trilab.tracking.outbox import Outbox
from trilab.tracking.parameters import flatten, shortened
from trilab.tracking.process import process_tags
from trilab.tracking.provenance import environment, git
from trilab.tracking.recovery import Recovery
from trilab.tracking.secrets import redacted, without_secrets
from trilab.tracking.sender import Sender
from trilab.tracking.settings import Tracking
from trilab.tracking.spool import Birth, begin, spool_folder
from trilab.tracking.store import connect

Status = Literal["FINISHED", "FAILED", "KILLED"]


#: A run's name and its tags.
Opening = tuple[str, Mapping[str, str]]


class Run:
    """An open MLflow run, and the members that it may have.

    Args:
        outbox: where what it records goes.
        sender: that sends it.
        delivery: to the store.
        experiment_id: of the store; None where it did not answer yet.
        settings: of the tracking.
    """

    def __init__(
        self, outbox: Outbox, sender: Sender, delivery: Delivery, experiment_id: str | None, settings: Tracking
    ) -> None:
        self.outbox = outbox
        self.experiment_id = experiment_id
        self.settings = settings
        self.members: list[Run] = []
        self.unsent = False
        self._sender = sender
        self._delivery = delivery

    @property
    def id(self) -> str:
        """MLflow's; a local one, which becomes the tag trilab.local_id, until the store gave one."""
        return self.outbox.run_id

    @property
    def client(self) -> MlflowClient:
        """To read with. What is written past the journal is out of order, and lost where the store is away."""
        return self._delivery.client

    @property
    def all(self) -> "list[Run]":
        """The run itself, then its members."""
        return [self, *self.members]

    def log_config(self, config: Mapping[str, Any], overrides: list[str]) -> None:
        """The whole configuration: flattened as parameters, and as artifacts to run it again from."""
        from omegaconf import OmegaConf

        public = without_secrets(dict(config))
        self.outbox.params({key: shortened(value) for key, value in flatten(public).items()})
        self.outbox.text(OmegaConf.to_yaml(OmegaConf.create(public)), "config.yaml")
        self.outbox.text(OmegaConf.to_yaml(OmegaConf.create(without_secrets(overrides))), "overrides.yaml")

    def log_provenance(self) -> None:
        """The installed packages, and what the code differs from its commit by; its members' too."""
        tags, diff = git()
        for run in self.all:
            run.outbox.text(environment(), "environment.txt")
            run.outbox.tags(tags)
            if diff:
                run.outbox.text(diff, "git.diff")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.outbox.tags(tags)

    def log_summary(self, summary: Mapping[str, Any]) -> None:
        self.outbox.text(json.dumps(without_secrets(summary), indent=2, default=str), "summary.json")

    def log_outputs(self, folders: Sequence[Path]) -> None:
        """Uploads what there is in the local folders of the run and of its members.

        That is `checkpoints/`, if the settings say so, and whatever was put into `artifacts/`.
        """
        for run, folder in zip(self.all, folders, strict=True):
            if self.settings.checkpoints and (folder / "checkpoints").is_dir():
                run.outbox.files(folder / "checkpoints", "checkpoints")
            if (folder / "artifacts").is_dir():
                run.outbox.files(folder / "artifacts", None)

    def flush(self) -> bool:
        """Waits until the store has everything, or does not answer for `tracking.wait_s`; whether it has."""
        return self._sender.flush(self.settings.wait_s)

    @property
    def where(self) -> str:
        """Where a person finds the run: its page on a server, else the store and the experiment."""
        store = redacted(self.settings.uri)
        if self.unsent:
            return f"the spool {self.outbox.journal.folder or ''}: not in {store} yet; trilab sync sends it"
        if self.settings.uri.startswith("http") and self.experiment_id is not None:
            return f"{store}/#/experiments/{self.experiment_id}/runs/{self.id}"
        return f"{store}, experiment {self.settings.experiment_name}"


class Session:
    """Runs that are opened together, and the thread that sends what they record.

    Args:
        settings: of the tracking.
    """

    def __init__(self, settings: Tracking) -> None:
        self.settings = settings
        self.spool = spool_folder(settings.spool)
        self.opened: list[Run] = []
        self._delivery = Delivery(settings.uri)
        self._sender = Sender(self._delivery, settings.flush_s)

    def begin_offline(self, why: str) -> None:
        """Says that the store does not answer, and that the run starts all the same."""
        why = why.rstrip(".")
        say(f"{why}. The run starts all the same, and is kept in {self.spool} until it is sent.")
        self._sender.begin_offline(why)

    def take(self, birth: Birth, experiment_id: str | None) -> Run:
        """Goes on with a run that is open in the store, or that has to be made there yet."""
        run = Run(Outbox(birth, begin(self.spool, birth)), self._sender, self._delivery, experiment_id, self.settings)
        self.opened.append(run)
        self._sender.add(run.outbox)
        return run

    def close(self, status: Status) -> bool:
        """Ends every run; whether the store has all of it."""
        for run in self.opened[::-1]:
            run.outbox.end(status)
        sent = self._sender.close(self.settings.wait_s)
        for run in self.opened:
            run.unsent = not sent
        if not sent and self.opened:
            lost = sum(run.outbox.journal.held for run in self.opened)
            said = "the store did not take everything. "
            if lost:
                said += f"Nor did the spool {self.spool}: the last {lost} records are lost with this process."
            else:
                said += f"It waits in {self.spool}: trilab sync sends it."
            say(f"tracking: {said}")
        return sent


@contextlib.contextmanager
def open_run(settings: Tracking, name: str, tags: Mapping[str, str], members: Sequence[Opening] = ()) -> Iterator[Run]:
    """Opens a run, with its members, and ends each with its true status.

    FINISHED where the body ends; KILLED where SIGINT or SIGTERM ended it; FAILED, with the traceback as an artifact,
    on any other exception. The exception goes on. Where the store does not answer, the run is opened in the spool.

    Raises:
        UserError: the store cannot be used as it is named; or it does not answer, and tracking.offline=fail.
    """
    client: MlflowClient | None = None
    experiment_id = why = None
    try:
        client, experiment_id = connect(settings)
    except Unreachable as error:
        if settings.offline == "fail":
            raise
        why = str(error)

    def begin_all(session: Session) -> None:
        nonlocal client
        if why is not None:
            session.begin_offline(why)
        under: dict[str, str] = {}
        for own_name, own_tags in [(name, tags), *members]:
            of_all = {**_standard_tags(), **settings.tags, **own_tags, **under, "mlflow.runName": own_name}
            public = without_secrets({key: str(value) for key, value in of_all.items()})
            birth = Birth.new(settings.uri, settings.experiment_name, settings.artifact_root, own_name, public)
            with shielded():  # a run must not come to be without anybody to end it
                if client is not None and not _create(client, experiment_id, birth):
                    session.begin_offline("The tracking store has stopped answering")
                    client = None
                run = session.take(birth, experiment_id)
            under = under or {"mlflow.parentRunId": run.id, "trilab.seed_batch": run.id}

    with live(settings, begin_all, Recovery(spool_folder(settings.spool), settings.uri) if client else None) as run:
        yield run


@contextlib.contextmanager
def live(
    settings: Tracking, begin_all: Callable[[Session], None], recovery: Recovery | None = None, first_sample: int = 0
) -> Iterator[Run]:
    """The life of runs, however they were opened.

    Args:
        settings: of the tracking.
        begin_all: takes the runs into the session: the run first, then its members.
        recovery: of what earlier processes left; it is given time at the end.
        first_sample: step of the first system metrics.
    """
    session = Session(settings)
    monitor = None
    status: Status = "FAILED"
    try:
        begin_all(session)
        run, *members = session.opened
        run.members = members
        if settings.system_metrics:
            monitor = SystemMonitor(run.outbox.metrics, settings.system_metrics_interval_s, first_sample)
            monitor.start()
        yield run
        status = "FINISHED"
    except BaseException as error:
        stopped = error if isinstance(error, Interrupted) else interruption()
        if stopped is not None:
            status = "KILLED"
            for run in session.opened:
                run.set_tags({"trilab.end": str(stopped)})
                run.outbox.headline(ended(status, f"by {stopped}"))
            if stopped is error:
                raise
            raise stopped from error
        with contextlib.suppress(Exception), shielded():  # the first error is the one to report
            said, text = f"{type(error).__name__}: {str(error)[:400]}", "".join(traceback.format_exception(error))
            for run in session.opened:
                run.set_tags({"trilab.end": said})
                run.outbox.headline(ended(status, said))
                run.outbox.text(text, "traceback.txt")
        raise
    finally:
        with shielded():
            if monitor is not None:
                monitor.stop()
            sent = session.close(status)
            if recovery is not None:
                recovery.close(settings.wait_s if sent else 0.0)


def _create(client: MlflowClient, experiment_id: str | None, birth: Birth) -> bool:
    """Gives the run its id in the store; False where that does not answer any more."""
    try:
        created = client.create_run(experiment_id or "0", birth.start_ms, birth.tags, birth.name)
    except (MlflowException, SQLAlchemyError) as error:
        if is_outage(error):
            return False
        raise UserError(f"Cannot write the tracking store {birth.uri}: {reason(error)}") from error
    birth.run_id = created.info.run_id
    return True


def _standard_tags() -> dict[str, str]:
    from trilab import __version__

    tags = {"trilab.version": __version__, "mlflow.source.type": "LOCAL", **process_tags()}
    with contextlib.suppress(OSError, KeyError):  # no such user: a container with a bare user id
        tags["mlflow.user"] = getpass.getuser()
    return tags
