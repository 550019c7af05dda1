"""The report of a study of precisions: its runs from their MLflow experiment, and the claims tried anew.

usage: python -m trilab.reports.precision_study FOLDER [--run] [--jobs N] [--uri URI]

Writes into FOLDER/results: table.md, table.csv (every run), machine.json, speed.json (the grid of speed and memory) and
the plots; and renews what stands between `<!-- results -->` and `<!-- /results -->` in FOLDER/README.md. With --run it
first makes those runs of FOLDER/study.yaml that the store does not hold as finished with the same configuration, N at
once, and the grid, unless speed.json has it from this machine.

The store is --uri, else $MLFLOW_TRACKING_URI, else ./mlflow.db, as for trilab train.
"""

import sys
from pathlib import Path

from trilab.reports.page import command_line, ensure_runs, publish
from trilab.reports.precision_plan import PrecisionStudy


def main(argv: list[str]) -> int:
    return command_line("trilab.reports.precision_study", (__doc__ or "").splitlines()[0], report, argv)


def read(folder: Path) -> PrecisionStudy:
    """The study in a folder; raises ConfigError where there is none, or it does not hold what it should."""
    return PrecisionStudy.of(folder)


def report(folder: Path, uri: str, run: bool = False, jobs: int = 1) -> list[Path]:
    """Writes the report and returns its files.

    Args:
        folder: of the study.
        uri: the store.
        run: make the missing runs and the grid first.
        jobs: how many of the runs at once.

    Raises:
        ConfigError: no such study or store, or a run of it is wrongly configured.
        UserError: a run failed, or there is nothing to report.
    """
    study, results = read(folder), folder / "results"
    ensure_runs(folder, study, uri, run, jobs)

    from trilab.runtime import fast_imports, prepare_imports

    with fast_imports():
        prepare_imports()
        from trilab.reports import precision_claims, precision_grid, precision_plots, precision_tables
        from trilab.reports.machine import in_words, machine
        from trilab.reports.precision_runs import celled, collect
        from trilab.tracking.store import MlflowClient

    client = MlflowClient(uri)
    found = collect(client, study)
    cells = celled(found, study)
    results.mkdir(exist_ok=True)
    if run and study.widths and study.batches:
        precision_grid.renew(study, results / precision_grid.NAME)
    claims = precision_claims.check(study)
    grid, settings = precision_grid.read(results / precision_grid.NAME)
    plots = {
        "claims.png": precision_plots.claims(claims, results / "claims.png"),
        "fields.png": precision_plots.fields(cells, study.baseline, results / "fields.png"),
        "speed.png": precision_plots.speed(grid, results / "speed.png"),
    }
    tables = (
        precision_tables.results(cells, study.baseline),
        precision_claims.table(claims),
        precision_claims.memory_table(claims),
        precision_grid.table(grid),
    )
    facts = machine(client, found, "runs", []) | ({"grid": settings} if settings else {})
    drawn = [name for name, there in plots.items() if there]
    return publish(folder, tables, precision_tables.comma_separated(cells), facts, drawn, in_words(facts, "runs"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
