"""The report of a study of recommenders, made from its MLflow experiment alone.

usage: python -m trilab.reports.recsys_study FOLDER [--run] [--jobs N] [--uri URI]

Writes into FOLDER/results: table.md, table.csv (every run), machine.json and the plots, with tables and plots of their
own for each data set; and renews what stands between `<!-- results -->` and `<!-- /results -->` in FOLDER/README.md.
With --run it first makes those runs of FOLDER/study.yaml that the store does not hold as finished with the same
configuration, N at once.

The store is --uri, else $MLFLOW_TRACKING_URI, else ./mlflow.db, as for trilab train.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trilab.errors import ConfigError, UserError
from trilab.reports.page import command_line, ensure_runs, publish
from trilab.reports.study import Study

if TYPE_CHECKING:
    from trilab.reports.recsys_runs import Groups


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
    ensure_runs(folder, study, uri, run, jobs)

    from trilab.reports import recsys_plots, recsys_tables
    from trilab.reports.machine import in_words, machine
    from trilab.reports.recsys_runs import by_data, collect, grouped
    from trilab.tracking.store import MlflowClient

    client = MlflowClient(uri)
    found = collect(client, study)
    results = folder / "results"
    results.mkdir(exist_ok=True)
    parts = {data.rpartition("/")[2]: grouped(own, study.models) for data, own in by_data(found).items()}
    if len(parts) > 1 and study.published:
        raise UserError(f"published: does not say of which data set, and the runs are of {', '.join(parts)}.")
    tables, plots = [], {}
    for data, groups in parts.items():
        own = _of_data(study, groups)
        several = len(parts) > 1
        named = {"data": data} if several else {}
        for rows in (recsys_tables.results(groups, own), recsys_tables.comparisons(groups, own)):
            tables.append([named | row for row in rows])
        suffix = f"_{data}.png" if several else ".png"
        plots[f"metrics{suffix}"] = recsys_plots.bars(groups, own, results / f"metrics{suffix}")
        plots[f"curves{suffix}"] = recsys_plots.curves(groups, own, results / f"curves{suffix}")
    facts = machine(client, found, "runs", [])
    drawn = [name for name, there in plots.items() if there]
    table_csv = recsys_tables.comma_separated(parts, study)
    return publish(folder, tables, table_csv, facts, drawn, in_words(facts, "runs"))


def _of_data(study: Study, groups: "Groups") -> Study:
    """The study as one of its data sets has it: metrics that are logged there, and a baseline that is there."""
    logged = {name for found in groups.values() for result in found for name in result.metrics}
    models = list(dict.fromkeys(row[0] for row in groups))
    baseline = study.baseline if study.baseline in models else models[0]
    return replace(study, metrics=[name for name in study.metrics if name in logged], baseline=baseline)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
