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

import shlex
import tempfile
from pathlib import Path

from trilab.cli import report
from trilab.commands.source import find_source
from trilab.config.job import Job
from trilab.config.stored import apply_overrides
from trilab.errors import ConfigError
from trilab.tracking.settings import redacted


def main(argv: list[str]) -> int:
    """Finds the source, changes its configuration as asked, and tests it."""
    with tempfile.TemporaryDirectory(prefix="trilab-evaluate-") as folder:
        source, overrides = find_source("evaluate", argv, Path(folder))
        job = apply_overrides(
            Job(source.config, source.choices), [*overrides, "fit=false", "test=true", "+resume=null"]
        )
        if job.config["trainer"].get("seeds"):
            raise ConfigError("trainer.seeds: one agent is evaluated at a time; that of another seed has its own run.")

        command = redacted(shlex.join(["trilab", "evaluate", *argv]))
        tags = {"trilab.source_run": source.run_id, "mlflow.source.name": command}
        from trilab.tables import show_summary
        from trilab.train import train

        try:
            summary = train(job, Path(folder), tags, source.checkpoint)
        except ConfigError:
            raise
        except Exception as error:
            report(error)
            return 1
        show_summary(summary)
    return 0
