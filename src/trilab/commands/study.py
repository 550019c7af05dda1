"""trilab study: put a question to many runs, and write down the answer

usage: trilab study NAME [OPTIONS] [OVERRIDES]
       trilab study --list

Makes those runs of NAME that the store does not hold as finished with the same configuration, compares them, and
renews the study's results/ and the block of results in its README. NAME is a study of ./experiments or of those that
came with trilab, or the path of a folder with a study.yaml. Stopped and started again it goes on where it was.

  --list          every study: its question, its runs done and all, the day of its results
  --report-only   make no runs: the report from what the store holds
  --jobs N        runs at once, each with one thread; default: 1
  --to DIR        where the results go: a copy of the study there
  --uri URI       the store; default: $MLFLOW_TRACKING_URI, else ./mlflow.db

Overrides, as for trilab train, are added to every run: trainer.max_epochs=1. Such runs are another study: they go to
an MLflow experiment of their own, and the results to --to DIR, by default outputs/studies/NAME+HASH.
Studies that came with an installed trilab are not changed: their results go to ./experiments/NAME.

exit code  0 finished, 1 runs failed, 2 wrong study or arguments, 130 Ctrl-C, 143 SIGTERM
"""

import argparse
import os
from pathlib import Path
from typing import NoReturn

from rich.table import Table

from trilab.console import show
from trilab.errors import ConfigError, UserError, nearest, say
from trilab.reports import studies
from trilab.reports.study import Study
from trilab.tracking.settings import sqlite_path, store_uri


def main(argv: list[str]) -> int:
    """Runs a study and reports on it, or lists them all."""
    options = _arguments(argv)
    uri = store_uri(options.uri or os.environ.get("MLFLOW_TRACKING_URI"))
    if options.list:
        _show_list(uri)
        return 0
    if options.name is None:
        raise ConfigError(f"study needs a name. There are: {', '.join(studies.folders())}. See: trilab study --list")
    folder, changes = studies.find(options.name), list(options.overrides)
    kind = studies.kind(folder)
    study = _changed(kind.read(folder), folder, changes)
    if not options.report_only:
        _check_runs(study)
    target = studies.results_folder(folder, changes, options.to)
    studies.prepare(folder, target, changes)
    if target != folder:
        say(f"{study.name}: the results go to {target}")
    for path in kind.report(target, uri, not options.report_only, options.jobs):
        print(path)
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("name", nargs="?")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--to", type=Path)
    parser.add_argument("--uri")
    # argparse's own prints the usage over several lines.
    parser.error = _refuse  # type: ignore[method-assign]
    options = parser.parse_intermixed_args(argv)
    if not options.jobs.isdigit() or int(options.jobs) < 1:
        raise ConfigError(f"--jobs {options.jobs}: expected a whole number >= 1.")
    options.jobs = int(options.jobs)
    if options.name is not None and "=" in options.name:
        raise ConfigError(f"study: the name of a study comes before overrides such as {options.name}.")
    wrong = next((text for text in options.overrides if "=" not in text and not text.startswith("~")), None)
    if wrong is not None:
        hint = nearest(wrong, studies.folders())
        raise ConfigError(f"study: '{wrong}' is no override (KEY=VALUE), and a study runs alone.{hint}")
    return options


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"study: {message}. See: trilab study --help")


def _changed(study: Study, folder: Path, changes: list[str]) -> Study:
    """The study with the overrides of the command line.

    Raises:
        ConfigError: one of them is what the study itself varies.
    """
    if not changes:
        return study
    if study.changes:
        raise ConfigError(f"{folder}: is a study with changed settings already. Give all overrides to the original.")
    for text in changes:
        key = text.partition("=")[0].lstrip("+~")
        if key in study.varied:
            raise ConfigError(f"{text}: {key} is what the study itself sets, run by run. Change it in its study.yaml.")
    return study.changed(changes)


def _check_runs(study: Study) -> None:
    """Raises ConfigError for the first run that is wrongly configured, before anything heavy is imported."""
    from trilab.config.preflight import preflight

    seed = study.seeds[0] if study.seeds else None
    for run in study.runs:
        preflight(study.overrides(run, seed), None, False)


def _show_list(uri: str) -> None:
    database = sqlite_path(uri)
    client = None
    if database is None or database.exists():
        from trilab.tracking.store import MlflowClient

        client = MlflowClient(uri)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("study", "question", "runs done", "results of"):
        table.add_column(column, overflow="fold")
    for name, folder in studies.folders().items():
        try:
            found = studies.progress(studies.kind(folder).read(folder).here(), client)
            runs = f"{found.done} of {found.runs}"
        except UserError as error:
            runs = str(error).removeprefix(f"{folder / 'study.yaml'}: ").partition(" Allowed:")[0]
        table.add_row(name, studies.question(folder), runs, studies.last_run(folder) or "none yet")
    show(table)
