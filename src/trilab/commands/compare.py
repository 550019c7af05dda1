"""trilab compare: hold runs against each other: a table, a verdict in words, plots, a page

usage: trilab compare NAME [NAME ...] [OPTIONS] [tracking.uri=URI]

NAME is a sweep (sweep.name), an MLflow experiment or a run id. Finished runs count, and each agent of trainer.seeds.

  --metric M       what is compared, by its last value; default: the goal's metric on the test
  --by A,B         what tells groups apart: precision, model, optimizer.lr, ...; default: what was swept, or differs
  --baseline X     value (fp32, or lr=0.001) that the others are held against; default: fp32, else the first group
  --margin 0.01    share of the baseline's metric below which a loss is none
  --format F       what is printed: text, markdown, csv or html; default: text
  --output DIR     where page, tables and plots go; default: outputs/compare/NAME

A sweep's own MLflow run gets all of it too, as artifacts under compare/, and the verdicts in its description.
Differences are of pairs with the same seed where seeds match. Their 95% intervals and the words better, worse, no
measurable loss and too few seeds to tell are explained at the end of every page.

exit code  0 compared, 1 the store cannot be read, 2 wrong arguments, or nothing to compare
"""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from trilab.commands.options import parse
from trilab.console import show
from trilab.errors import ConfigError, UserError, nearest
from trilab.tracking.secrets import redacted
from trilab.tracking.settings import sqlite_path, store_uri

if TYPE_CHECKING:
    from trilab.compare.comparison import Comparison
    from trilab.reports.page import Rows
    from trilab.tracking.store import MlflowClient

FORMATS = ("text", "markdown", "csv", "html")
_DEFAULTS = {"--metric": "", "--by": "", "--baseline": "", "--margin": "0.01", "--format": "text", "--output": ""}
#: Of a folder's name that is made of several run ids.
_LONGEST = 60


@dataclass(frozen=True)
class Asked:
    """The command line.

    Args:
        names: of sweeps, experiments and runs.
        uri: the store.
        metric: None for the goal's.
        by: None for what was swept, or differs.
        baseline: None for the usual one.
        margin: share of the baseline's metric below which a loss is none.
        format: what is printed.
        output: folder.
    """

    names: list[str]
    uri: str
    metric: str | None
    by: list[str] | None
    baseline: str | None
    margin: float
    format: str
    output: Path


def main(argv: list[str]) -> int:
    """Compares, writes, and prints."""
    asked = arguments(argv)
    database = sqlite_path(asked.uri)
    if database is not None and not database.exists():
        raise ConfigError(f"There is no store {database}. Go to the folder of the runs, or give tracking.uri=...")
    from trilab.tracking.failures import reason
    from trilab.tracking.store import MlflowClient, MlflowException, SQLAlchemyError

    try:
        return _compare(MlflowClient(asked.uri), asked, shlex.join(["trilab", "compare", *argv]))
    except (MlflowException, SQLAlchemyError) as error:
        raise UserError(f"Cannot read the tracking store {redacted(asked.uri)}: {reason(error)}") from error


def arguments(argv: Sequence[str]) -> Asked:
    """What is asked for.

    Raises:
        ConfigError: an option or a value that there is not.
    """
    options, rest = parse("compare", argv, _DEFAULTS)
    names = [text for text in rest if not text.startswith("tracking.uri=")]
    if not names:
        raise ConfigError("compare needs a sweep, an MLflow experiment or run ids: trilab compare NAME. See: --help")
    if options["--format"] not in FORMATS:
        hint = nearest(options["--format"], FORMATS)
        raise ConfigError(f"--format {options['--format']}: no such format.{hint} Allowed: {', '.join(FORMATS)}.")
    try:
        margin = float(options["--margin"])
    except ValueError:
        margin = -1.0
    if not 0 < margin < 1:
        raise ConfigError(f"--margin {options['--margin']}: expected a share of the baseline, above 0 and below 1.")
    by = [column.strip() for column in options["--by"].split(",")] if options["--by"] else None
    if by is not None and not all(by):
        raise ConfigError(f"--by {options['--by']}: a name is missing between the commas.")
    folder = "_".join(re.sub(r"[^\w.+=,@-]+", "_", name) for name in names)[:_LONGEST].strip(".") or "runs"
    given = [text.partition("=")[2] for text in rest if text.startswith("tracking.uri=")]
    return Asked(
        names=names,
        uri=store_uri(given[-1] if given else os.environ.get("MLFLOW_TRACKING_URI")),
        metric=options["--metric"] or None,
        by=by,
        baseline=options["--baseline"] or None,
        margin=margin,
        format=options["--format"],
        output=Path(options["--output"] or Path("outputs") / "compare" / folder),
    )


def _compare(client: "MlflowClient", asked: Asked, command: str) -> int:
    from trilab.compare.comparison import Options, compare
    from trilab.compare.find import select
    from trilab.compare.write import GROUPS, PAGE, TEXT, log, write

    selection = select(client, asked.names, redacted(asked.uri))
    comparison = compare(selection, Options(asked.metric, asked.by, asked.baseline, asked.margin))
    try:
        files = write(client, comparison, command, asked.output)
    except OSError as error:
        raise UserError(f"--output {asked.output}: cannot be written: {error}") from error
    if selection.sweep is not None:
        log(client, selection.sweep.info.run_id, comparison, files)
    if asked.format == "text":
        _show(comparison, files)
    else:
        name = {"markdown": TEXT, "csv": GROUPS, "html": PAGE}[asked.format]
        print((asked.output / name).read_text(encoding="utf-8"), end="")
    return 0


def _show(comparison: "Comparison", files: Sequence[Path]) -> None:
    from trilab.compare.tables import heading, shown, shown_across

    for task in comparison.tasks:
        show("", f"[bold]{escape(heading(comparison, task))}[/bold]", _table(shown(comparison, task)))
    if rows := shown_across(comparison):
        show("", "[bold]All tasks together[/bold]", _table(rows))
    notes = [*comparison.notes, *([f"left out: {comparison.left_out}"] if comparison.left_out else [])]
    print("\n".join(["", *comparison.verdicts(), *(f"note: {note}" for note in notes)]))
    show("", f"[dim]{escape(comparison.footnote)}[/dim]")
    print(f"\n{files[0]}")


def _table(rows: "Rows") -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    for name in columns:
        table.add_column(escape(name), overflow="fold")
    for row in rows:
        table.add_row(*(escape(row[name]) for name in columns))
    return table
