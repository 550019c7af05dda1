"""The report of a study of recommenders, made from its MLflow experiment alone.

usage: python -m trilab.reports.recsys_study FOLDER [--run] [--jobs N] [--uri URI]

Writes into FOLDER/results: table.md, table.csv (every run), machine.json and the plots; and renews what stands between
`<!-- results -->` and `<!-- /results -->` in FOLDER/README.md. With --run it first makes those runs of
FOLDER/study.yaml that the store does not hold as finished with the same configuration, N at once.

The store is --uri, else $MLFLOW_TRACKING_URI, else ./mlflow.db, as for trilab train.
"""

import sys
from pathlib import Path

from trilab.errors import ConfigError
from trilab.reports.page import command_line, publish, require_block, require_store
from trilab.reports.study import Study


def main(argv: list[str]) -> int:
    return command_line("trilab.reports.recsys_study", (__doc__ or "").splitlines()[0], report, argv)


def read(folder: Path) -> Study:
    """The study in a folder.

    Raises:
        ConfigError: there is none, or it does not hold what it should.
    """
    study = Study.read(folder, without=("overestimation",))
    if not study.metrics or study.by[:1] != ["model"]:
        raise ConfigError(f"{folder / 'study.yaml'}: it needs `metrics`, one at least, and `by` begins with model.")
    return study


def report(folder: Path, uri: str, run: bool = False, jobs: int = 1) -> list[Path]:
    """Writes the report and returns its files.

    Args:
        folder: of the study.
        uri: the store.
        run: make the missing runs first.
        jobs: how many of them at once.

    Raises:
        ConfigError: no such study or store, or a run of it is wrongly configured.
        UserError: a run failed, or there is nothing to report.
    """
    study = read(folder)
    require_block(folder)
    if run:
        from trilab.reports.launch import run_study

        run_study(study, uri, jobs)
    require_store(uri)

    from trilab.reports import recsys_plots, recsys_tables
    from trilab.reports.machine import in_words, machine
    from trilab.reports.recsys_runs import collect, grouped
    from trilab.tracking.store import MlflowClient

    client = MlflowClient(uri)
    found = collect(client, study)
    groups = grouped(found, study.models)
    results = folder / "results"
    results.mkdir(exist_ok=True)
    plots = {
        "metrics.png": recsys_plots.bars(groups, study, results / "metrics.png"),
        "curves.png": recsys_plots.curves(groups, study, results / "curves.png"),
    }
    facts = machine(client, found, "runs", [])
    tables = recsys_tables.results(groups, study), recsys_tables.comparisons(groups, study)
    drawn = [name for name, there in plots.items() if there]
    return publish(folder, tables, recsys_tables.comma_separated(groups, study), facts, drawn, in_words(facts, "runs"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
