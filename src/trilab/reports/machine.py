"""Where, when and with what a study's runs were made, as their tags and artifacts say."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from trilab.reports.rl_runs import Agent, artifact_text
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
_PACKAGES = ("torch", "pytorch-lightning", "gymnasium", "numpy", "mlflow")


def machine(client: MlflowClient, agents: Sequence[Agent]) -> dict[str, Any]:
    """Every tag's values, the versions that the latest run had, and the days of the first and the last run."""
    facts: dict[str, Any] = {}
    for tag in _TAGS:
        values = sorted({agent.tags[tag] for agent in agents if tag in agent.tags})
        facts[tag] = values[0] if len(values) == 1 else values
    latest = max(agents, key=lambda agent: agent.started)
    frozen = artifact_text(client, latest.tags.get("mlflow.parentRunId", latest.run_id), "environment.txt") or ""
    for name in ("python", *_PACKAGES):
        found = re.search(rf"^(?:# )?{re.escape(name)}(?:==| )(\S+)$", frozen, re.MULTILINE | re.IGNORECASE)
        facts[name] = found[1] if found else None
    platform = re.search(r"^# ((?!python ).+)$", frozen, re.MULTILINE)
    facts["platform"] = platform[1] if platform else None
    days = sorted(datetime.fromtimestamp(agent.started, UTC).date().isoformat() for agent in agents)
    facts["first_run"], facts["last_run"] = days[0], days[-1]
    facts["agents"] = len(agents)
    return facts


def in_words(facts: dict[str, Any]) -> str:
    """One line for a reader."""
    device = facts["device.name"] if isinstance(facts["device.name"], str) else ", ".join(facts["device.name"])
    commit = facts["git.commit"]
    code = f"{len(commit)} commits" if isinstance(commit, list) else f"commit {(commit or 'unknown')[:12]}"
    days = " to ".join(sorted({facts["first_run"], facts["last_run"]}))
    return f"{facts['agents']} agents, {days}, {device}, torch {facts['torch']}, {code}"
