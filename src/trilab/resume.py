"""Going on from a checkpoint of an earlier run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trilab.callbacks.identity import KEY, read_checkpoint
from trilab.config.job import Job
from trilab.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """The training that is gone on with: MLflow's id of its run, and of the runs of its members."""

    run_ids: list[str]


def source_of(path: Path, job: Job) -> Source:
    """What a checkpoint is of, where this job can go on from it.

    Raises:
        ConfigError: it is not there, no checkpoint, one without the state of a training, or one of something else.
    """
    content = read_checkpoint(path, "resume")
    found: dict[str, Any] = content[KEY]
    for group in ("model", "data"):
        theirs, ours = found["choices"][group], job.choices[group]
        if theirs != ours:
            raise ConfigError(f"resume={path}: its training had {group}={theirs}, and this one has {group}={ours}.")
    theirs, ours = (config["trainer"].get("seeds") for config in (found["config"], job.config))
    if theirs != ours:
        raise ConfigError(
            f"resume={path}: its training had trainer.seeds={_shown(theirs)}, and this one has "
            f"trainer.seeds={_shown(ours)}."
        )
    before, now = (config["optimizer"] for config in (found["config"], job.config))
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"resume={path}: its training had optimizer.{key}={before.get(key)}, and this one has "
                f"{now.get(key)}; an optimiser goes on with the settings that it had."
            )
    if "loops" not in content or "optimizer_states" not in content:
        raise ConfigError(f"resume={path}: it holds weights, and not the state of a training. last.ckpt does.")
    return Source([found["run_id"], *found.get("members", [])])


def _shown(seeds: list[int] | None) -> str:
    return "null" if seeds is None else str(seeds).replace(" ", "")
