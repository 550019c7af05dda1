"""The earlier run that a command is about: run=RUN_ID, or checkpoint=PATH."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trilab.config.allowed import check_stored
from trilab.config.job import Job
from trilab.errors import ConfigError, nearest

SOURCES = ("run", "checkpoint")


@dataclass(frozen=True)
class Source:
    """An earlier run: its configuration, the options it chose, its best checkpoint, and MLflow's id."""

    config: dict[str, Any]
    choices: dict[str, str]
    checkpoint: Path
    run_id: str


def find_source(command: str, arguments: Sequence[str], folder: Path) -> tuple[Source, list[str]]:
    """The run that the arguments name, and the overrides among them.

    Args:
        command: for messages.
        arguments: of the command.
        folder: a run's checkpoint is downloaded to it.

    Raises:
        ConfigError: no run is named, or none that can be found.
    """
    given = {key: value for key, _, value in (argument.partition("=") for argument in arguments) if key in SOURCES}
    if len(given) != 1 or not all(given.values()):
        typed = arguments[0].partition("=")[0] if arguments else ""
        hint = "" if typed in SOURCES else nearest(typed, SOURCES)
        raise ConfigError(f"{command} needs one of run=<MLflow run id> and checkpoint=<path>.{hint}")
    [(kind, value)] = given.items()
    overrides = [argument for argument in arguments if argument.partition("=")[0] not in SOURCES]
    if kind == "checkpoint":
        source = _of_checkpoint(Path(value))
        source.config["tracking"]["uri"] = store(source.config["tracking"]["uri"], overrides)
        return source, overrides
    # Only the overrides can say which store to look in; they are applied to the configuration found there.
    from trilab.tracking.lookup import fetch_run

    return Source(*fetch_run(value, overrides, folder), value), overrides


def named_run(command: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The run id that a command is given, as RUN_ID or run=RUN_ID, and the other arguments.

    Raises:
        ConfigError: none is given, or several.
    """
    plain = [text.removeprefix("run=") for text in arguments if "=" not in text or text.startswith("run=")]
    if len(plain) != 1 or not plain[0]:
        raise ConfigError(f"{command} needs one run: trilab {command} RUN_ID. Run ids are in the UI: trilab ui.")
    return plain[0], [text for text in arguments if "=" in text and not text.startswith("run=")]


def store(kept: str | None, overrides: Sequence[str]) -> str | None:
    """The store for what is done with a checkpoint: the environment's, else the one that its run went to."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or kept
    hidden = uri is not None and "***@" in uri
    if hidden and not any(text.startswith("tracking.uri=") for text in overrides):
        raise ConfigError(f"{uri}: a checkpoint keeps no password. Give tracking.uri=... or set MLFLOW_TRACKING_URI.")
    return uri


def _of_checkpoint(path: Path) -> Source:
    from trilab.runtime import prepare_imports

    if not path.is_file():
        raise ConfigError(f"checkpoint={path}: there is no such file.")
    prepare_imports()
    from trilab.callbacks.identity import KEY, read_checkpoint

    identity = read_checkpoint(path, "checkpoint")[KEY]
    check_stored(identity["config"], f"checkpoint={path}")
    if seeds := identity["config"]["trainer"].get("seeds"):
        raise ConfigError(
            f"checkpoint={path} holds the agents of {len(seeds)} seeds. Evaluate one: "
            f"checkpoint={path.parent.parent}/seed_{seeds[0]}/checkpoints/best.ckpt"
        )
    return Source(identity["config"], identity["choices"], path.absolute(), identity["run_id"])


def output_folder(job: Job) -> Path:
    """A new local folder for a run that Hydra does not start, beside those that it makes (see conf/train.yaml)."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    return Path(job.config["paths"]["outputs"]).absolute() / job.choices["experiment"] / f"{now}_{os.getpid()}"
