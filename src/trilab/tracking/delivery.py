"""A journal's records, one by one, into the store: in order, and so that what is sent twice is there once."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param, RunTag
from mlflow.exceptions import MlflowException

from trilab.errors import say
from trilab.tracking.describe import NOTE, renewed
from trilab.tracking.failures import Gone, Refused, is_refusal, reason
from trilab.tracking.inputs import dataset_inputs
from trilab.tracking.journal import Entry
from trilab.tracking.models import log_model
from trilab.tracking.outbox import Outbox
from trilab.tracking.points import PointWriter
from trilab.tracking.spool import is_local
from trilab.tracking.store import experiment_of

#: MLflow's limit on the parameters, and on the tags, of one request.
_PAIRS = 100


class Delivery:
    """Sends journals to one store.

    Args:
        uri: the store, with the password that it may need.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._parts: tuple[MlflowClient, PointWriter] | None = None
        #: What is being done that may take long though the store works: an upload.
        self.uploading = False
        #: When the store last took something (time.monotonic).
        self.last_success = 0.0
        self._failed_upload: Exception | None = None

    @property
    def client(self) -> MlflowClient:
        return self._connected()[0]

    def _connected(self) -> tuple[MlflowClient, PointWriter]:
        if self._parts is None:  # making one contacts a database; a server may be away
            client = MlflowClient(self._uri)
            self._parts = client, PointWriter(client, self._uri)
        return self._parts

    def send(self, outbox: Outbox, go_on: Callable[[], bool]) -> int:
        """Sends what there is now; what is added meanwhile has its turn after that of other runs.

        Args:
            outbox: of the run.
            go_on: asked between two requests.

        Returns:
            How many records were sent.

        Raises:
            Gone: the run or its experiment was deleted in the store.
            Exception: of the store; what was sent until then is struck off.
        """
        sent, until = 0, outbox.journal.size()
        while go_on() and not outbox.gone:
            entries = outbox.journal.pending()
            if not entries:
                break
            try:
                if outbox.birth.run_id is None:
                    self._create(outbox)
                sent += self._send(outbox, entries, go_on)
            except BaseException:
                outbox.journal.give_back()
                raise
            if entries[-1][1] >= until:
                break
        failed, self._failed_upload = self._failed_upload, None
        if failed is not None:
            raise failed
        return sent

    def _send(self, outbox: Outbox, entries: list[Entry], go_on: Callable[[], bool]) -> int:
        done = 0
        while done < len(entries) and go_on():
            batch = _batch(entries[done:], self._connected()[1].limit)
            try:
                self._put(outbox, [record for record, _ in batch])
            except Exception as error:
                if self._is_gone(outbox, error):
                    raise Gone(outbox.run_id) from error
                if not is_refusal(error):
                    if not _is_upload(batch[0][0]) or not self._answers(outbox):
                        raise
                    self._failed_upload = error
                    outbox.put_off(batch[0][0])
                else:
                    self._put_singly(outbox, batch)
            outbox.journal.strike(batch)
            self.last_success = time.monotonic()
            done += len(batch)
        if done < len(entries):
            outbox.journal.give_back()
        return done

    def _put(self, outbox: Outbox, records: list[dict[str, Any]]) -> None:
        client, writer = self._connected()
        run_id, record = outbox.run_id, records[0]
        if "m" in record:
            points = [(key, value, r["t"], r["s"]) for r in records for key, value in r["m"].items()]
            for start in range(0, len(points), writer.limit):
                writer.write(run_id, points[start : start + writer.limit])
        elif "params" in record:
            params = [Param(key, value) for key, value in record["params"].items()]
            for start in range(0, len(params), _PAIRS):
                client.log_batch(run_id, params=params[start : start + _PAIRS])
        elif "tags" in record:
            tags = [RunTag(key, self._real(value, outbox)) for key, value in record["tags"].items()]
            for start in range(0, len(tags), _PAIRS):
                client.log_batch(run_id, tags=tags[start : start + _PAIRS])
        elif "headline" in record:
            note = client.get_run(run_id).data.tags.get(NOTE, "")
            if (new := renewed(note, record["headline"])) != note:
                client.set_tag(run_id, NOTE, new)
        elif "inputs" in record:
            client.log_inputs(run_id, dataset_inputs(record["inputs"]))
        elif "text" in record:
            client.log_text(run_id, record["text"], record["path"])
        elif "files" in record:
            self._upload(outbox, record)
        elif "end" in record:
            client.set_terminated(run_id, status=record["end"], end_time=record["t"])

    def _upload(self, outbox: Outbox, record: dict[str, Any]) -> None:
        folder = Path(record["files"])
        kept = outbox.journal.folder / "files" / record["copy"] if outbox.journal.folder else folder
        source = kept if kept.is_dir() else folder
        if not source.is_dir():
            raise Refused(f"{folder} is not there any more")
        self.uploading = True
        try:
            if "model" in record:
                key = f"{outbox.birth.key} {record['copy']}"
                log_model(self.client, outbox.run_id, source, record["model"], record["kind"], record["step"], key)
            else:
                self.client.log_artifacts(outbox.run_id, str(source), record["path"])
        finally:
            self.uploading = False

    def _create(self, outbox: Outbox) -> None:
        """Makes the run, unless an earlier attempt did that and only its answer was lost."""
        birth, client = outbox.birth, self.client
        experiment = experiment_of(client, birth.experiment, birth.artifact_root)
        run_id = self._find(birth.key, experiment)
        if run_id is None:
            tags = {key: self._real(value) for key, value in birth.tags.items()}
            created = client.create_run(experiment, start_time=birth.start_ms, run_name=birth.name, tags=tags)
            run_id = created.info.run_id
        outbox.born(run_id)

    def _real(self, value: str, outbox: Outbox | None = None) -> str:
        """A tag's value, with the store's id in place of a local one: runs name their parents, and texts their run."""
        if is_local(value):
            return self._find(value) or value
        return value.replace(outbox.birth.key, outbox.run_id) if outbox else value

    def _find(self, key: str, experiment: str | None = None) -> str | None:
        """The store's id of a run that is known here by a local one."""
        experiments = [experiment] if experiment else [e.experiment_id for e in self.client.search_experiments()]
        found = self.client.search_runs(experiments, f"tags.`trilab.local_id` = '{key}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _put_singly(self, outbox: Outbox, batch: list[Entry]) -> None:
        """Sends records one by one, metrics too, and sets aside those that the store refuses."""
        for record, _ in batch:
            if "m" in record:
                parts = [{**record, "m": {key: value}} for key, value in record["m"].items()]
            elif "params" in record:
                parts = [{"params": {key: value}} for key, value in record["params"].items()]
            elif "tags" in record:
                parts = [{"tags": {key: value}} for key, value in record["tags"].items()]
            else:
                parts = [record]
            for part in parts:
                try:
                    self._put(outbox, [part])
                except Exception as error:
                    if not is_refusal(error):
                        raise
                    _set_aside(outbox, part, error)

    def _answers(self, outbox: Outbox) -> bool:
        """Whether it is only the store of artifacts that fails."""
        try:
            self.client.get_run(outbox.run_id)
        except Exception:
            return False
        return True

    def _is_gone(self, outbox: Outbox, error: Exception) -> bool:
        if isinstance(error, Gone):
            return True
        if not is_refusal(error):
            return False
        try:
            return self.client.get_run(outbox.run_id).info.lifecycle_stage == "deleted"
        except MlflowException as other:
            return str(other.error_code) == "RESOURCE_DOES_NOT_EXIST"


def _is_upload(record: dict[str, Any]) -> bool:
    return "files" in record or "text" in record


def _batch(entries: list[Entry], limit: int) -> list[Entry]:
    """The first record; with those that follow where all are metrics and fit into one request."""
    if "m" not in entries[0][0]:
        return entries[:1]
    count = points = 0
    for record, _ in entries:
        points += len(record.get("m", ()))
        if "m" not in record or points > limit:
            break
        count += 1
    return entries[: max(count, 1)]


def _set_aside(outbox: Outbox, record: dict[str, Any], error: Exception) -> None:
    where = "nowhere"
    if outbox.journal.folder is not None:
        file = outbox.journal.folder.parent / "refused" / f"{outbox.birth.key}.jsonl"
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as out:
            out.write(json.dumps(record) + "\n")
        where = str(file)
    outbox.complain("trilab.refused", reason(error), f"the store refused a record, kept in {where}")


def keep_files(outbox: Outbox) -> None:
    """Has the journal keep what is still to be uploaded, for its folder may be removed before it is.

    By a second name for the same file where that is possible; a copy of it otherwise.
    """
    folder = outbox.journal.folder
    if folder is None:
        return
    for record in outbox.journal.unsent():
        if "files" not in record or not Path(record["files"]).is_dir():
            continue
        target = folder / "files" / record["copy"]
        part = target.with_name(f"{target.name}.part")
        if target.exists():
            continue
        try:
            shutil.copytree(record["files"], part, copy_function=_link_or_copy)
            part.rename(target)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(part, ignore_errors=True)
            say(f"Cannot keep a copy of {record['files']} ({reason(error)}): leave it there until trilab sync has run.")


def _link_or_copy(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
