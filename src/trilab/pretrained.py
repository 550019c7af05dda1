"""Checkpoints of earlier runs that a model starts from: its texts `pretrained_...`, run ids or files."""

import shutil
from pathlib import Path

from trilab.callbacks.identity import KEY, read_checkpoint
from trilab.config.job import Job
from trilab.errors import ConfigError
from trilab.tracking.lookup import fetch_checkpoint
from trilab.tracking.settings import store_uri

PREFIX = "pretrained_"


def with_checkpoints(job: Job, folder: Path) -> Job:
    """The job with the paths of checkpoints where it names runs; without any where it does not train.

    Args:
        job: as it was configured.
        folder: what is downloaded goes there; removed again where something is wrong.

    Raises:
        ConfigError: no such run or file, one without a checkpoint, or one of other data.
        UserError: the store cannot be read.
    """
    model = dict(job.config["model"])
    try:
        for key, value in job.config["model"].items():
            if key.startswith(PREFIX) and isinstance(value, str):
                model[key] = str(_checkpoint(job, key, value, folder)) if job.config["fit"] else None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Job({**job.config, "model": model}, job.choices, job.overrides)


def _checkpoint(job: Job, key: str, value: str, folder: Path) -> Path:
    argument, path = f"model.{key}", Path(value)
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path = fetch_checkpoint(value, store_uri(job.config["tracking"]["uri"]), argument, folder)
        path = path.rename(folder / f"{value}{path.suffix}")
    theirs, ours = read_checkpoint(path, argument)[KEY]["choices"]["data"], job.choices["data"]
    if theirs != ours:
        raise ConfigError(f"{argument}={value}: it was trained on data={theirs}, and this run has data={ours}.")
    return path
