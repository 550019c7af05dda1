"""Where, when and with what a study's runs were made, as their tags and artifacts say."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from trilab.reports.runs import artifact_text
from trilab.tracking.store import MlflowClient

#: Tags that say what the numbers depend on. More than one value of one means that the runs were not made alike.
_TAGS = (
    "device.name",
    "accelerator.effective",
    "precision.effective",
    "runtime.threads",
    "trilab.version",
    "git.commit",
    "git.dirty",
)
_PACKAGES = ("torch", "pytorch-lightning", "numpy", "mlflow")


class Made(Protocol):
    """What was made by a run: an agent, a model."""

    @property
    def run_id(self) -> str: ...
    @property
    def tags(self) -> Mapping[str, str]: ...
    @property
    def started(self) -> float: ...  # seconds since 1970


def machine(client: MlflowClient, made: Sequence[Made], what: str, packages: Sequence[str]) -> dict[str, Any]:
    """Every tag's values, the versions that the latest run had, and the days of the first and the last run.

    Args:
        client: of the store.
        made: all that the study is about.
        what: they are, in the plural.
        packages: whose versions matter beside those that every study depends on.
    """
    facts: dict[str, Any] = {}
    for tag in _TAGS:
        values = sorted({one.tags[tag] for one in made if tag in one.tags})
        facts[tag] = values[0] if len(values) == 1 else values
    latest = max(made, key=lambda one: one.started)
    frozen = artifact_text(client, latest.tags.get("mlflow.parentRunId", latest.run_id), "environment.txt") or ""
    for name in ("python", *_PACKAGES, *packages):
        found = re.search(rf"^(?:# )?{re.escape(name)}(?:==| )(\S+)$", frozen, re.MULTILINE | re.IGNORECASE)
        facts[name] = found[1] if found else None
    platform = re.search(r"^# ((?!python ).+)$", frozen, re.MULTILINE)
    facts["platform"] = platform[1] if platform else None
    days = sorted(datetime.fromtimestamp(one.started, UTC).date().isoformat() for one in made)
    facts["first_run"], facts["last_run"] = days[0], days[-1]
    facts[what] = len(made)
    return facts


def in_words(facts: Mapping[str, Any], what: str) -> str:
    """One line for a reader, of the facts that `machine` gave of `what`."""
    device = facts["device.name"] if isinstance(facts["device.name"], str) else ", ".join(facts["device.name"])
    commit = facts["git.commit"]
    code = f"{len(commit)} commits" if isinstance(commit, list) else f"commit {(commit or 'unknown')[:12]}"
    days = " to ".join(sorted({facts["first_run"], facts["last_run"]}))
    return f"{facts[what]} {what}, {days}, {device}, torch {facts['torch']}, {code}"
