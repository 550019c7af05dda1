"""The report of a study of agents, made from its MLflow experiment alone.

usage: python -m trilab.reports.rl_study FOLDER [--run] [--jobs N] [--uri URI]

Writes into FOLDER/results: table.md, table.csv (every agent), machine.json and the plots; and renews what stands
between `<!-- results -->` and `<!-- /results -->` in FOLDER/README.md. With --run it first makes those runs of
FOLDER/study.yaml that the store does not hold as finished with the same configuration, N at once.

The store is --uri, else $MLFLOW_TRACKING_URI, else ./mlflow.db, as for trilab train.
"""

import sys
from pathlib import Path

from trilab.reports.page import command_line, ensure_runs, publish
from trilab.reports.study import Study


def main(argv: list[str]) -> int:
    return command_line("trilab.reports.rl_study", (__doc__ or "").splitlines()[0], report, argv)


def read(folder: Path) -> Study:
    """The study in a folder.

    Raises:
        ConfigError: there is none, or it does not hold what it should.
    """
    return Study.read(folder, without=("metrics", "by", "published"))


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

    from trilab.reports import rl_plots, rl_tables
    from trilab.reports.machine import in_words, machine
    from trilab.reports.rl_runs import collect, grouped
    from trilab.tracking.store import MlflowClient

    client = MlflowClient(uri)
    agents = collect(client, study.name)
    groups = grouped(agents, study.models)
    results = folder / "results"
    results.mkdir(exist_ok=True)
    plots = {
        "learning_curves.png": rl_plots.learning_curves(groups, results / "learning_curves.png"),
        "final_scores.png": rl_plots.final_scores(groups, results / "final_scores.png"),
        "overestimation.png": rl_plots.overestimation(groups, study.overestimation, results / "overestimation.png"),
    }
    facts = machine(client, agents, "agents", ["gymnasium"])
    tables = rl_tables.results(groups), rl_tables.comparisons(groups, study.baseline)
    drawn = [name for name, there in plots.items() if there]
    return publish(folder, tables, rl_tables.comma_separated(agents), facts, drawn, in_words(facts, "agents"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
