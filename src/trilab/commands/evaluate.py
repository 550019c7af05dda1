"""trilab evaluate: test the best checkpoint of an earlier run

usage: trilab evaluate run=RUN_ID [OVERRIDES]
       trilab evaluate checkpoint=PATH [OVERRIDES]

The configuration is that of the run (or of the checkpoint, which carries it); overrides change it:
  accelerator=cuda precision=bf16-mixed    where and how it is computed
  data.batch_size=512 seed=7               single values
  tracking.uri=sqlite:////abs/mlflow.db    the store, also the one that run=... is looked up in

The test is a run of its own in the same MLflow experiment; its tag trilab.source_run names the first.

exit code  0 finished, 1 failed, 2 wrong arguments, 130 Ctrl-C, 143 SIGTERM
"""

import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

from trilab.cli import report
from trilab.config.job import Job
from trilab.config.stored import apply_overrides
from trilab.errors import ConfigError, nearest
from trilab.tracking.settings import redacted

_SOURCES = ("run", "checkpoint")


def main(argv: list[str]) -> int:
    """Finds the source, changes its configuration as asked, and tests it."""
    source, value, overrides = _arguments(argv)
    with tempfile.TemporaryDirectory(prefix="trilab-evaluate-") as folder:
        if source == "run":
            # Only the overrides can say which store to look in; they are applied to the configuration found there.
            from trilab.tracking.lookup import fetch_run

            config, choices, checkpoint = fetch_run(value, overrides, Path(folder))
            run_id = value
        else:
            config, choices, checkpoint, run_id = _checkpoint(Path(value))
            config["tracking"]["uri"] = _store(config["tracking"]["uri"], overrides)
        job = apply_overrides(Job(config, choices), [*overrides, "fit=false", "test=true", "+resume=null"])
        if job.config["trainer"].get("seeds"):
            raise ConfigError("trainer.seeds: one agent is evaluated at a time; that of another seed has its own run.")

        tags = {"trilab.source_run": run_id, "mlflow.source.name": redacted(shlex.join(["trilab", "evaluate", *argv]))}
        from trilab.tables import show_summary
        from trilab.train import train

        try:
            summary = train(job, Path(folder), tags, checkpoint)
        except ConfigError:
            raise
        except Exception as error:
            report(error)
            return 1
        show_summary(summary)
    return 0


def _arguments(argv: list[str]) -> tuple[str, str, list[str]]:
    given = {key: value for key, _, value in (argument.partition("=") for argument in argv) if key in _SOURCES}
    if len(given) != 1 or not all(given.values()):
        typed = argv[0].partition("=")[0] if argv else ""
        hint = "" if typed in _SOURCES else nearest(typed, _SOURCES)
        raise ConfigError(f"evaluate needs one of run=<MLflow run id> and checkpoint=<path>.{hint}")
    [(source, value)] = given.items()
    return source, value, [argument for argument in argv if argument.partition("=")[0] not in _SOURCES]


def _store(kept: str | None, overrides: list[str]) -> str | None:
    """The store for a checkpoint's test: the environment's, else the one that the checkpoint's run went to."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or kept
    hidden = uri is not None and "***@" in uri
    if hidden and not any(text.startswith("tracking.uri=") for text in overrides):
        raise ConfigError(f"{uri}: a checkpoint keeps no password. Give tracking.uri=... or set MLFLOW_TRACKING_URI.")
    return uri


def _checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, str], Path, str]:
    from trilab.runtime import prepare_imports

    if not path.is_file():
        raise ConfigError(f"checkpoint={path}: there is no such file.")
    prepare_imports()
    from trilab.callbacks.identity import KEY, read_checkpoint

    identity = read_checkpoint(path, "checkpoint")[KEY]
    if seeds := identity["config"]["trainer"].get("seeds"):
        raise ConfigError(
            f"checkpoint={path} holds the agents of {len(seeds)} seeds. Evaluate one: "
            f"checkpoint={path.parent.parent}/seed_{seeds[0]}/checkpoints/best.ckpt"
        )
    return identity["config"], identity["choices"], path.absolute(), identity["run_id"]
