"""The report of a study as `trilab compare` would give it: tables, verdicts and plots of any field, from MLflow alone.

usage: python -m trilab.compare.study FOLDER [--run] [--jobs N] [--uri URI]

`by` of FOLDER/study.yaml names what tells groups apart and `baseline` what they are held against, as --by and
--baseline do; `metrics` may name one metric, else it is the goal's. Writes into FOLDER/results: table.md, table.csv
(every run), groups.csv, machine.json and the plots; and renews what stands between `<!-- results -->` and
`<!-- /results -->` in FOLDER/README.md. With --run it first makes those runs that the store does not hold as finished
with the same configuration, N at once.

The store is --uri, else $MLFLOW_TRACKING_URI, else ./mlflow.db, as for trilab train.
"""

import sys
from pathlib import Path

from trilab.errors import ConfigError
from trilab.reports.page import Rows, command_line, ensure_runs, publish
from trilab.reports.study import Study
from trilab.tracking.secrets import redacted


def main(argv: list[str]) -> int:
    return command_line("trilab.compare.study", (__doc__ or "").splitlines()[0], report, argv)


def read(folder: Path) -> Study:
    """The study in a folder.

    Raises:
        ConfigError: there is none, or it does not hold what it should.
    """
    study = Study.read(folder, without=("overestimation", "published"))
    if len(study.metrics) > 1:
        raise ConfigError(f"{folder / 'study.yaml'}: metrics: one is compared, or the goal's where none is named.")
    if not study.by:
        raise ConfigError(f"{folder / 'study.yaml'}: by: name what tells the groups apart: model, precision, ...")
    return study


def report(folder: Path, uri: str, run: bool = False, jobs: int = 1) -> list[Path]:
    """Writes the report and returns its files.

    Args:
        folder: of the study.
        uri: the store.
        run: make the missing runs first.
        jobs: how many of them at once.

    Raises:
        ConfigError: no such study or store, a run of it is wrongly configured, or there is nothing to compare.
        UserError: a run failed.
    """
    study = read(folder)
    ensure_runs(folder, study, uri, run, jobs)

    from trilab.compare.comparison import Options, compare
    from trilab.compare.document import verdicts_in_markdown
    from trilab.compare.find import select
    from trilab.compare.plots import draw
    from trilab.compare.tables import heading, of_groups, of_runs, shown, shown_across
    from trilab.compare.write import GROUPS, machine_of
    from trilab.reports.machine import in_words
    from trilab.tracking.store import MlflowClient

    client = MlflowClient(uri)
    selection = select(client, [study.name], redacted(uri))
    metric = study.metrics[0] if study.metrics else None
    comparison = compare(selection, Options(metric, study.by, study.baseline))
    results = folder / "results"
    results.mkdir(exist_ok=True)
    plots = [name for name, _ in draw(client, comparison, results)]
    facts = machine_of(client, comparison.samples)
    parts: list[Rows | str] = [verdicts_in_markdown(comparison)]
    for task in comparison.tasks:
        parts += [f"### {heading(comparison, task)}", shown(comparison, task)]
    if rows := shown_across(comparison):
        parts += ["### All tasks together", rows]
    parts.append(comparison.footnote)
    (results / GROUPS).write_text(of_groups(comparison))
    written = publish(folder, parts, of_runs(comparison), facts, plots, in_words(facts, "runs"))
    return [results / GROUPS, *written]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
