"""All that one run has to say to its store, as records in its journal. Nothing here waits for the store."""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trilab.errors import say
from trilab.tracking.journal import Journal
from trilab.tracking.secrets import redacted, without_secrets
from trilab.tracking.spool import Birth

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Outbox:
    """A run's way out. Any thread may use it; the child of a fork may too, and is not heard.

    Args:
        birth: what the run is.
        journal: where its records are kept until the store has them.
    """

    def __init__(self, birth: Birth, journal: Journal) -> None:
        self.birth = birth
        self.journal = journal
        self.gone = False  # the run was deleted in the store
        #: Names and steps that the store has already; what is recorded for them again is left out.
        self.known: set[tuple[str, int]] = set()
        self._warned: set[str] = set()
        self._files = 0

    @property
    def run_id(self) -> str:
        """The store's id of the run; the local one while the store gave none."""
        return self.birth.run_id or self.birth.key

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Adds metrics of one step. What cannot be a metric is told of once, and left out."""
        try:
            plain = {key: float(value) for key, value in values.items()}
            if self.known:
                plain = {key: value for key, value in plain.items() if (key, step) not in self.known}
            if not math.isfinite(sum(plain.values())):
                self._mark_non_finite(plain, step)
            # NaN and the infinities stand there by these names, which Python's reader knows.
            self.journal.append(f'{{"t":{time.time_ns() // 1_000_000},"s":{int(step)},"m":{_encode(plain)}}}')
        except Exception as error:  # tracking never ends a training
            self.complain("trilab.tracking_error", f"{type(error).__name__}: {error}", f"metrics at step {step}")

    def _mark_non_finite(self, values: Mapping[str, float], step: int) -> None:
        found = next(((name, value) for name, value in values.items() if not math.isfinite(value)), None)
        if found is not None and "trilab.non_finite" not in self._warned:
            self._warned.add("trilab.non_finite")
            self.tags({"trilab.non_finite": f"{found[0]} is {found[1]} at step {step}"})

    def complain(self, tag: str, error: str, what: str) -> None:
        """Tells the user, and whoever looks at the run later, that something could not be recorded; once."""
        if tag in self._warned:
            return
        self._warned.add(tag)
        said = redacted(f"{what}: {' '.join(error.split())}")[:400]
        say(f"tracking: {said}. The run goes on; this is said once.")
        self.tags({tag: said})

    def params(self, values: Mapping[str, str]) -> None:
        self._add({"params": without_secrets(values)})

    def tags(self, values: Mapping[str, str]) -> None:
        self._add({"tags": without_secrets({key: str(value) for key, value in values.items()})})

    def headline(self, line: str) -> None:
        """Renews the first line of the description, unless people have put something else there."""
        self._add({"headline": redacted(line)})

    def inputs(self, records: Sequence[Mapping[str, str]]) -> None:
        """Datasets, each as `trilab.tracking.inputs.inputs_of` describes it."""
        self._add({"inputs": without_secrets(records)})

    def text(self, content: str, path: str) -> None:
        """An artifact from a text."""
        self._add({"text": redacted(content), "path": path})

    def files(self, folder: Path, path: str | None) -> None:
        """Artifacts from the files of a folder, which has to stay where it is until the store has them or `keep`.

        Args:
            folder: all in it is uploaded.
            path: among the artifacts; None for their root.
        """
        self._upload(folder, {"path": path})

    def model(self, folder: Path, name: str, kind: str, step: int) -> None:
        """A model, from a folder in MLflow's format; what is said of the folder of `files` holds for it too.

        Args:
            folder: with MLmodel.
            name: of the model.
            kind: of the model: what it takes.
            step: of the run at which it is as it is.
        """
        self._upload(folder, {"model": name, "kind": kind, "step": step})

    def _upload(self, folder: Path, what: Mapping[str, object]) -> None:
        self._files += 1
        self._add({"files": str(folder.absolute()), "copy": f"{self._files}", **what})

    def end(self, status: str, at_ms: int | None = None) -> None:
        """The end of the run."""
        self.birth.ended = status
        self._write_birth()
        self._add({"end": status, "t": at_ms or time.time_ns() // 1_000_000})

    def _add(self, record: Mapping[str, object]) -> None:
        self.journal.append(_encode(record))

    def put_off(self, record: Mapping[str, object]) -> None:
        """Puts an upload behind everything else: its failure shall not keep metrics and the end back."""
        self._add(record)

    def born(self, run_id: str) -> None:
        """Notes the id that the store gave the run."""
        self.birth.run_id = run_id
        self._write_birth()

    def _write_birth(self) -> None:
        with contextlib.suppress(OSError):  # a full disk; the store can be asked for the id, by the tag trilab.local_id
            if self.journal.folder is not None:
                self.birth.write(self.journal.folder)
