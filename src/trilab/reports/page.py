"""What the reports of all studies share: the command line, tables in Markdown, and the block in the README."""

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trilab.errors import ConfigError, UserError, say
from trilab.reports.study import Study
from trilab.signals import Interrupted, interruptible
from trilab.tracking.settings import sqlite_path, store_uri

_BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)

#: From the study's folder, the store, whether to make missing runs, and how many at once, to the files written.
Report = Callable[[Path, str, bool, int], list[Path]]
Rows = list[dict[str, str]]


def command_line(module: str, title: str, report: Report, argv: Sequence[str]) -> int:
    """Makes a report as the command line asks, and returns the exit code.

    Args:
        module: that the command names.
        title: what it does.
        report: does it.
        argv: what follows the module.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=title)
    parser.add_argument("folder", type=Path, help="a study: experiments/NAME")
    parser.add_argument("--run", action="store_true", help="first make the runs that are missing")
    parser.add_argument(
        "--jobs", type=int, default=1, help="how many of them at once, each with one thread; default: 1"
    )
    parser.add_argument("--uri", help="the store; default: $MLFLOW_TRACKING_URI, else ./mlflow.db")
    options = parser.parse_args(argv)
    try:
        if options.jobs < 1:
            raise ConfigError(f"--jobs {options.jobs}: expected a whole number >= 1.")
        with interruptible():
            uri = store_uri(options.uri or os.environ.get("MLFLOW_TRACKING_URI"))
            for path in report(options.folder, uri, options.run, options.jobs):
                print(path)
    except Interrupted as stopped:
        say(f"stopped by {stopped}")
        return stopped.exit_code
    except ConfigError as error:
        say(str(error))
        return 2
    except UserError as error:
        say(str(error))
        return 1
    return 0


def ensure_runs(folder: Path, study: Study, uri: str, run: bool, jobs: int) -> None:
    """What a report begins with: the place for it, the runs where they are to be made, and the store.

    Args:
        folder: of the study.
        study: whose runs they are.
        uri: the store.
        run: make the missing runs.
        jobs: how many of them at once.

    Raises:
        ConfigError: the README has no place for the results, a run is wrongly configured, or there is no store.
        UserError: a run failed.
    """
    require_block(folder)
    if run:
        from trilab.reports.launch import run_study

        run_study(study, uri, jobs)
    require_store(uri)


def require_block(folder: Path) -> None:
    """Raises ConfigError where the study's README has no place for the results."""
    readme = folder / "README.md"
    if not readme.is_file() or not _BLOCK.search(readme.read_text()):
        raise ConfigError(f"{readme}: needs a line <!-- results --> and below it a line <!-- /results -->.")


def require_store(uri: str) -> None:
    """Raises ConfigError where a store that is a file does not exist: MLflow would make an empty one."""
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise ConfigError(f"There is no store {database}. Go to the folder of the runs, or give --uri.")


def publish(
    folder: Path,
    parts: Sequence[Rows | str],
    table_csv: str,
    facts: Mapping[str, Any],
    plots: Sequence[str],
    last_line: str,
) -> list[Path]:
    """Writes what was found into the study's folder, and returns the files.

    Args:
        folder: of the study.
        parts: tables, and texts in Markdown, for table.md and the README.
        table_csv: content of table.csv.
        facts: for machine.json.
        plots: names of the plots that are in `results` already.
        last_line: where, when and with what it was made.
    """
    results, readme = folder / "results", folder / "README.md"
    table = "\n".join(f"{part}\n" if isinstance(part, str) else markdown(part) for part in parts if part)
    texts = {"table.md": table, "table.csv": table_csv, "machine.json": json.dumps(facts, indent=2) + "\n"}
    for name, text in texts.items():
        (results / name).write_text(text)
    images = "".join(f"![{name.removesuffix('.png').replace('_', ' ')}](results/{name})\n" for name in plots)
    block = f"{table}\n{images}\n{last_line}.\n"
    readme.write_text(_BLOCK.sub(lambda found: f"{found[1]}\n{block}\n{found[2]}", readme.read_text()))
    return [*(results / name for name in (*texts, *plots)), readme]


def markdown(rows: Rows) -> str:
    """A table, columns without any content left out."""
    if not rows:
        return ""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
