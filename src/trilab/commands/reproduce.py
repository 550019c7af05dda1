"""trilab reproduce: run an earlier run again, and say whether its metrics are equal

usage: trilab reproduce RUN_ID [OVERRIDES]

The new run has the configuration and the seed that the store holds of the first, and the tag trilab.reproduces names
it. Before it starts it is said what differs on this machine: the code's commit and state, packages, device, threads,
precision. At the end every metric of train/, val/ and test/ is compared, the whole history of each. On a CPU, with the
same packages, they are equal to the last bit. Where they are not, the result is held against those of the other seeds
of the same configuration in the store: it reproduces if it lies within two of their standard deviations of their mean,
of three seeds at least.

  tracking.uri=sqlite:////abs/mlflow.db    the store, also the one that the run is looked up in
  accelerator=cuda                         other values are allowed, and said to differ

exit code  0 equal, or within the spread; 1 not so, or failed; 2 wrong arguments; 130 Ctrl-C; 143 SIGTERM
"""

import json
import shlex
import tempfile
from pathlib import Path

from rich.table import Table

from trilab.cli import exit_code, report
from trilab.commands.source import named_run, output_folder
from trilab.config.job import Job, build
from trilab.config.stored import apply_overrides
from trilab.console import show
from trilab.errors import ConfigError, UserError
from trilab.runtime import fast_imports
from trilab.tracking.settings import redacted


def main(argv: list[str]) -> int:
    """Says what differs, runs, and compares."""
    run_id, overrides = named_run("reproduce", argv)
    with tempfile.TemporaryDirectory(prefix="trilab-reproduce-") as name:
        folder = Path(name)
        with fast_imports():
            from trilab.tracking.lookup import find_run

            stored = find_run(run_id, overrides, folder)
            members = stored.members(folder)
            _check(stored.run.info.status, dict(stored.tags), stored.job, run_id)
            jobs = [_again(one.job, overrides) for one in [stored, *members]]
            accelerator = build(jobs[0].config["accelerator"])
            tags = accelerator.prepare()
            precision = build(jobs[0].config["precision"]).on(accelerator.device())
            from trilab.reports.reproduction import compare, spread_of
            from trilab.tables import show_summary
            from trilab.tracking.differences import differences
            from trilab.train import train

        here = {**tags, "precision.effective": precision.name, "trilab.config_hash": jobs[0].hash}
        _show_differences(differences(stored, here, folder))
        command = redacted(shlex.join(["trilab", "reproduce", *argv]))
        try:
            summary = train(
                jobs[0],
                output_folder(jobs[0]),
                {"trilab.reproduces": run_id, "mlflow.source.name": command},
                members=jobs[1:],
            )
        except ConfigError:
            raise
        except Exception as error:
            report(error)
            return exit_code(error)
    show_summary(summary)
    whole = getattr(summary, "whole", summary)
    own = [whole.run_id, *(member.run_id for member in getattr(summary, "members", []))]
    pairs = list(zip([stored.id, *(member.id for member in members)], own, strict=True))
    goal = f"{whole.split}/{whole.goal['metric']}"
    found = compare(stored.client, pairs, goal, spread_of(stored, goal))
    show("", *found.lines())
    stored.client.log_text(whole.run_id, json.dumps(found.as_dict(), indent=2), "reproduction.json")
    stored.client.set_tag(whole.run_id, "trilab.reproduced", found.verdict)
    return 0 if found.verdict in ("equal", "within the spread") else 1


def _again(job: Job, overrides: list[str]) -> Job:
    """The job as it is now valid, with the overrides of both command lines."""
    return Job(apply_overrides(job, overrides).config, job.choices, [*job.overrides, *overrides])


def _check(status: str, tags: dict[str, str], job: Job, run_id: str) -> None:
    """Refuses what cannot be run again, or whose metrics say nothing."""
    if status != "FINISHED":
        more = f" trilab resume {run_id} goes on with it." if status in ("FAILED", "KILLED") else ""
        raise ConfigError(f"run={run_id} is {status}: only of a finished run is it known what it comes to.{more}")
    if "trilab.source_run" in tags:
        raise ConfigError(
            f"run={run_id} is a test of another run's checkpoint: trilab evaluate run={tags['trilab.source_run']}"
        )
    resume = job.config.get("resume")
    if resume is not None and not Path(resume).is_file():
        raise UserError(f"run={run_id} went on from {resume}, and there is no such file here.")


def _show_differences(found: list[tuple[str, str, str]]) -> None:
    if not found:
        show("The code, the packages and the machine are those of the run.", "")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("differs", "in the run", "here"):
        table.add_column(column, overflow="fold")
    for row in found:
        table.add_row(*row)
    show(table, "")
