"""trilab resume: go on with a run that was stopped or failed

usage: trilab resume RUN_ID [tracking.uri=URI]

The training goes on from the run's last checkpoint, in the same MLflow run and with the configuration that it has, as
if it had never been stopped. The checkpoint is the one in the run's local folder, where that is still there, else the
uploaded one. Points that the stopped process logged beyond it are not logged twice.

A run that is finished has nothing to go on with. For a longer training make another run from its last checkpoint:
  trilab train experiment=... trainer.max_epochs=20 resume=outputs/.../checkpoints/last.ckpt

exit code  0 finished, 1 failed, 2 wrong arguments, 130 Ctrl-C, 143 SIGTERM
"""

import tempfile
from pathlib import Path

from trilab.cli import exit_code, report
from trilab.commands.source import named_run, output_folder
from trilab.config.job import Job
from trilab.config.stored import apply_overrides
from trilab.errors import ConfigError, UserError
from trilab.runtime import prepare_imports


def main(argv: list[str]) -> int:
    """Finds the run and its checkpoint, and trains on."""
    run_id, overrides = named_run("resume", argv)
    other = [text for text in overrides if not text.startswith("tracking.uri=")]
    if other:
        raise ConfigError(
            f"{other[0]}: a run goes on with the configuration that it has. Another one is another run: "
            "trilab train ... resume=PATH/last.ckpt. Allowed: tracking.uri=..."
        )
    prepare_imports()
    from trilab.tracking.lookup import StoredRun, find_run
    from trilab.tracking.process import is_gone

    with tempfile.TemporaryDirectory(prefix="trilab-resume-") as folder:
        stored = find_run(run_id, overrides, Path(folder))
        _check(stored.run.info.status, dict(stored.tags), stored.job, is_gone(dict(stored.tags)), run_id)
        local = Path(stored.tags.get("trilab.output_dir", "-"))
        ids = {stored.id, stored.tags.get("trilab.local_id", "")}  # its checkpoints may know the local one alone
        checkpoint = _last(local / "checkpoints", ids) or _last(stored.checkpoints(Path(folder)), ids)
        if checkpoint is None:
            raise UserError(
                f"run={run_id} ({stored.run.info.status}) has no last checkpoint, neither in {local} nor in its "
                "artifacts: it ended before its first epoch did. Run it anew: "
                f"{stored.tags.get('mlflow.source.name', 'trilab train')}"
            )

        def whole(one: StoredRun) -> Job:
            """Its job, checked against the code as it is now."""
            return Job(apply_overrides(one.job, []).config, one.job.choices, one.job.overrides)

        job, members = whole(stored), [whole(member) for member in stored.members(Path(folder))]
        output = local if local.is_dir() else output_folder(job)
        from trilab.tables import show_summary
        from trilab.train import train

        try:
            summary = train(job, output, members=members, goes_on=checkpoint)
        except ConfigError:
            raise
        except Exception as error:
            report(error)
            return exit_code(error)
    show_summary(summary)
    return 0


def _check(status: str, tags: dict[str, str], job: Job, gone: bool, run_id: str) -> None:
    """Refuses what cannot be gone on with."""
    if "trilab.seed_batch" in tags:
        raise ConfigError(
            f"run={run_id} is one agent of a batch, and they go on together: trilab resume {tags['trilab.seed_batch']}"
        )
    if not job.config["fit"]:
        raise ConfigError(f"run={run_id} is a test alone, without a training to go on with.")
    if status == "FINISHED":
        raise ConfigError(
            f"run={run_id} is FINISHED: there is nothing to go on with. For a longer training make another run from "
            "its last checkpoint: trilab train ... trainer.max_epochs=... resume=PATH/last.ckpt"
        )
    if status not in ("KILLED", "FAILED") and not gone:
        raise ConfigError(f"run={run_id} is {status}: its process has not ended, or is on another machine.")


def _last(folder: Path | None, run_ids: set[str]) -> Path | None:
    """A folder's latest checkpoint, where it is one of the run's own that a training can go on from."""
    from trilab.callbacks.identity import KEY, read_checkpoint

    if folder is None or not (folder / "last.ckpt").is_file():
        return None
    try:
        content = read_checkpoint(folder / "last.ckpt", "resume")
    except ConfigError:
        return None  # cut off while it was written
    return folder / "last.ckpt" if content[KEY]["run_id"] in run_ids and "loops" in content else None
