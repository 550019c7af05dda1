"""A study as its `study.yaml` asks it, and the runs that answer it."""

import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from trilab.config.compose import compose_unchecked
from trilab.config.job import Job
from trilab.config.preflight import preflight
from trilab.errors import ConfigError, UserError, nearest, say
from trilab.tracking.settings import Tracking
from trilab.tracking.store import connect


@dataclass(frozen=True)
class Study:
    """What `study.yaml` holds.

    Args:
        name: MLflow experiment that all runs of the study go to.
        baseline: model that the others are compared with, by its file name under `conf/model/rl`.
        overestimation: models whose predicted and real values are plotted against each other.
        common: overrides of every run.
        runs: overrides of each run, one `trilab train` of its own.
    """

    name: str
    baseline: str
    overestimation: list[str]
    common: list[str]
    runs: list[list[str]]

    @classmethod
    def read(cls, folder: Path) -> "Study":
        """The study in a folder.

        Raises:
            ConfigError: there is none, or it does not hold what it should.
        """
        path = folder / "study.yaml"
        if not path.is_file():
            raise ConfigError(f"{folder}: no study here: there is no file {path}.")
        try:
            content: Any = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: {error}") from None
        names = {field.name for field in fields(cls)}
        given = set(content) if isinstance(content, dict) else set()
        for name in sorted(given - names):
            hint = nearest(name, names)
            raise ConfigError(f"{path}: no such key '{name}'.{hint} Allowed: {', '.join(sorted(names))}.")
        if given != names:
            raise ConfigError(f"{path}: '{min(names - given)}' is missing.")
        texts = [content["name"], content["baseline"], *content["overestimation"], *content["common"]]
        texts += [text for run in content["runs"] for text in run]
        if not all(isinstance(text, str) for text in texts):
            wrong = next(text for text in texts if not isinstance(text, str))
            raise ConfigError(f"{path}: {wrong!r} is not a text; put an override with brackets in quotation marks.")
        return cls(**content)

    @property
    def models(self) -> list[str]:
        """The models by their file names, the baseline first, the others in the order of the runs."""
        chosen = [text.rpartition("/")[2] for run in self.runs for text in run if text.startswith("model=")]
        return list(dict.fromkeys([self.baseline, *chosen]))

    def overrides(self, run: list[str]) -> list[str]:
        """All overrides of one of the runs."""
        return [f"tracking.experiment_name={self.name}", *self.common, *run]


def run_study(study: Study, uri: str) -> None:
    """Makes the study's runs, one process after the other; those that the store holds as finished are left out.

    Every run's configuration is checked before the first one starts.

    Raises:
        ConfigError: one of the runs is wrongly configured.
        UserError: a run failed; those before it stay, and the next call goes on with this one.
    """
    asked = []
    for run in study.runs:
        preflight(study.overrides(run), None, False)
        config, choices = compose_unchecked(study.overrides(run))
        asked.append((run, Job.of(config, choices, []).hash))
    client, experiment_id = connect(Tracking(study.name, uri))
    for position, (run, identity) in enumerate(asked, 1):
        same = f"attributes.status = 'FINISHED' and tags.`trilab.config_hash` = '{identity}'"
        found = client.search_runs([experiment_id], same, max_results=1)
        title = f"run {position} of {len(asked)}: {' '.join(run)}"
        if found:
            say(f"{title}: finished already, as run {found[0].info.run_id}")
            continue
        say(title)
        command = [sys.executable, "-m", "trilab", "train", *study.overrides(run)]
        done = subprocess.run(command, env={**os.environ, "MLFLOW_TRACKING_URI": uri})
        if done.returncode:
            raise UserError(f"{title}: trilab train ended with exit code {done.returncode}.")
