"""A comparison as files in a folder, and in the sweep's own MLflow run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from trilab import __version__
from trilab.compare.comparison import Comparison
from trilab.compare.document import Made, as_html, as_markdown, verdicts_in_markdown
from trilab.compare.samples import Sample
from trilab.compare.tables import of_groups, of_runs
from trilab.reports.machine import in_words, machine
from trilab.tracking.secrets import redacted

#: Folder among the artifacts of the sweep's run.
ARTIFACTS = "compare"
PAGE, TEXT, GROUPS, RUNS = "compare.html", "compare.md", "groups.csv", "runs.csv"
_NOTE = "mlflow.note.content"
_BLOCK = re.compile(r"\n*<!-- compare -->.*?<!-- /compare -->\n*", re.DOTALL)
#: MLflow's limit on the characters of a tag, and so of a description.
_LONGEST = 8000


@dataclass(frozen=True)
class _Run:
    """A sample as `machine` wants it: what it was made with is among its own artifacts, whatever it is nested under."""

    run_id: str
    tags: Mapping[str, str]
    started: float

    @classmethod
    def of(cls, sample: Sample) -> "_Run":
        tags = {key: text for key, text in sample.tags.items() if key != "mlflow.parentRunId"}
        return cls(sample.run_id, tags, sample.started)


def write(client: MlflowClient, comparison: Comparison, command: str, folder: Path) -> list[Path]:
    """Writes the page, the Markdown, two tables and the plots; each is whole, or as it was before.

    Args:
        client: of the store, for the histories.
        comparison: what is written.
        command: that makes it again.
        folder: made where it is missing.

    Returns:
        the files; the page first.
    """
    from trilab.compare.plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob("*scores.png"), *folder.glob("*curves_over_*.png"), *folder.glob("*speed_and_*.png")]:
        stale.unlink()
    plots = draw(client, comparison, folder)
    facts = machine_of(client, comparison.samples)
    made = Made(
        command=redacted(command),
        store=redacted(client.tracking_uri),
        runs=in_words(facts, "runs"),
        when=f"{datetime.now():%Y-%m-%d %H:%M}",
        version=__version__,
    )
    texts = {
        PAGE: as_html(comparison, plots, made, folder),
        TEXT: as_markdown(comparison, plots, made),
        GROUPS: of_groups(comparison),
        RUNS: of_runs(comparison),
    }
    for name, text in texts.items():
        part = folder / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)
    return [folder / name for name in (*texts, *(name for name, _ in plots))]


def machine_of(client: MlflowClient, samples: Sequence[Sample]) -> dict[str, Any]:
    """Where, when and with what the samples were made."""
    facts = machine(client, [_Run.of(sample) for sample in samples], "runs", [])
    facts["torch"] = facts["torch"] or "unknown"
    return facts


def log(client: MlflowClient, run_id: str, comparison: Comparison, files: Sequence[Path]) -> None:
    """Puts the files under `compare/` of the sweep's own run, and the verdicts into its description."""
    for path in files:
        client.log_artifact(run_id, str(path), ARTIFACTS)
    before = client.get_run(run_id).data.tags.get(_NOTE, "")
    client.set_tag(run_id, _NOTE, described(before, verdicts_in_markdown(comparison)))


def described(before: str, verdicts: str) -> str:
    """A description with the verdicts in it, in place of those of an earlier comparison.

    What else it says is never cut. Verdicts that do not fit are left out from the end, and that is said.
    """
    rest = _BLOCK.sub("\n\n", before).strip()
    lines = verdicts.splitlines()
    for kept in range(len(lines), -1, -1):
        said = [*lines[:kept], *([f"- {len(lines) - kept} lines more in `{ARTIFACTS}/`"] if kept < len(lines) else [])]
        block = "\n".join(["<!-- compare -->", f"**Compared** (`{ARTIFACTS}/{PAGE}`)", "", *said, "<!-- /compare -->"])
        text = f"{rest}\n\n{block}".strip()
        if len(text) <= _LONGEST:
            return text
    return before
