"""A run that was stopped or failed, opened again to be gone on with.

Its metrics go on where its last checkpoint stands, and the process that was stopped may have logged points beyond that.
MLflow cannot delete points, and the training that goes on makes the same ones again; so a point is left out where the
store has one of that name at that step already.
"""

import contextlib
from collections.abc import Iterator, Sequence

from mlflow import MlflowClient

from trilab.signals import shielded
from trilab.tracking.describe import running
from trilab.tracking.lookup import histories, run_of
from trilab.tracking.process import process_tags
from trilab.tracking.provenance import environment, git
from trilab.tracking.recovery import recover
from trilab.tracking.run import Run, Session, live
from trilab.tracking.settings import Tracking
from trilab.tracking.spool import Birth, spool_folder
from trilab.tracking.store import connect

#: How often the run was gone on with.
RESUMES = "trilab.resumes"


@contextlib.contextmanager
def reopen_run(settings: Tracking, run_ids: Sequence[str]) -> Iterator[Run]:
    """Opens a run and its members again, and ends each with its true status, as `trilab.tracking.run.open_run` does.

    Args:
        settings: of the store that they are in.
        run_ids: of the run, then of its members.

    Raises:
        UserError: the store cannot be reached or written.
    """
    client, experiment_id = connect(settings)
    recover(spool_folder(settings.spool), settings.uri)  # what the stopped process recorded and could not send
    run_ids = [run_of(client, run_id).info.run_id for run_id in run_ids]  # a checkpoint may know a local id alone

    def begin_all(session: Session) -> None:
        for run_id in run_ids:
            found = client.get_run(run_id)
            birth = Birth.new(
                settings.uri,
                settings.experiment_name,
                settings.artifact_root,
                found.info.run_name or "",
                {**found.data.tags, **process_tags()},
            )
            birth.run_id = run_id
            with shielded():
                run = session.take(birth, experiment_id)
                _begin_again(client, run)

    first_sample = 1 + max(
        (m.step for m in client.get_run(run_ids[0]).data._metric_objs if m.key[:7] == "system/"), default=-1
    )
    with live(settings, begin_all, first_sample=first_sample) as run:
        yield run


def _begin_again(client: MlflowClient, run: Run) -> None:
    run.outbox.known = {(name, point.step) for name, points in histories(client, run.id).items() for point in points}
    tags = client.get_run(run.id).data.tags
    count = int(tags.get(RESUMES, 0)) + 1
    # First, for RUNNING without a process is an orphan.
    for key, value in {**process_tags(), RESUMES: str(count)}.items():
        client.set_tag(run.id, key, value)
    client.update_run(run.id, status="RUNNING")
    if "trilab.end" in tags:
        client.delete_tag(run.id, "trilab.end")
    run.outbox.headline(running(resumed=True))
    # What it began with stays as it was logged: this is of the part that follows.
    run.outbox.text(environment(), f"resumes/{count}/environment.txt")
    _, diff = git()
    if diff:
        run.outbox.text(diff, f"resumes/{count}/git.diff")
