"""The report of a study of agents, made from its MLflow experiment alone.

usage: python -m trilab.reports.rl_study FOLDER [--run] [--uri URI]

Writes into FOLDER/results: table.md, table.csv (every agent), machine.json and the plots; and renews what stands
between `<!-- results -->` and `<!-- /results -->` in FOLDER/README.md. With --run it first makes those runs of
FOLDER/study.yaml that the store does not hold as finished with the same configuration.

The store is --uri, else $MLFLOW_TRACKING_URI, else ./mlflow.db, as for trilab train.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

from trilab.errors import ConfigError, UserError, say
from trilab.tracking.settings import sqlite_path, store_uri

_BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)


def main(argv: list[str]) -> int:
    title = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m trilab.reports.rl_study", description=title)
    parser.add_argument("folder", type=Path, help="a study: experiments/NAME")
    parser.add_argument("--run", action="store_true", help="first make the runs that are missing")
    parser.add_argument("--uri", help="the store; default: $MLFLOW_TRACKING_URI, else ./mlflow.db")
    options = parser.parse_args(argv)
    try:
        uri = store_uri(options.uri or os.environ.get("MLFLOW_TRACKING_URI"))
        for path in report(options.folder, uri, options.run):
            print(path)
    except ConfigError as error:
        say(str(error))
        return 2
    except UserError as error:
        say(str(error))
        return 1
    return 0


def report(folder: Path, uri: str, run: bool = False) -> list[Path]:
    """Writes the report and returns its files.

    Args:
        folder: of the study.
        uri: the store.
        run: make the missing runs first.

    Raises:
        ConfigError: no such study or store, or a run of it is wrongly configured.
        UserError: a run failed, or there is nothing to report.
    """
    from trilab.reports.study import Study, run_study

    study = Study.read(folder)
    readme = folder / "README.md"
    if not readme.is_file() or not _BLOCK.search(readme.read_text()):
        raise ConfigError(f"{readme}: needs a line <!-- results --> and below it a line <!-- /results -->.")
    if run:
        run_study(study, uri)
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise ConfigError(f"There is no store {database}. Go to the folder of the runs, or give --uri.")

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
    drawn = [name for name, there in plots.items() if there]
    facts = machine(client, agents)
    tables = rl_tables.results(groups), rl_tables.comparisons(groups, study.baseline)
    table = "\n".join(rl_tables.markdown(rows) for rows in tables)
    texts = {
        "table.md": table,
        "table.csv": rl_tables.comma_separated(agents),
        "machine.json": json.dumps(facts, indent=2) + "\n",
    }
    for name, text in texts.items():
        (results / name).write_text(text)
    images = "".join(f"![{name.removesuffix('.png').replace('_', ' ')}](results/{name})\n" for name in drawn)
    block = f"{table}\n{images}\n{in_words(facts)}.\n"
    readme.write_text(_BLOCK.sub(lambda found: f"{found[1]}\n{block}\n{found[2]}", readme.read_text()))
    return [*(results / name for name in (*texts, *drawn)), readme]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
