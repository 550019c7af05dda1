"""The report of a study of devices, made from its MLflow experiment, and the rows of other machines kept.

It makes two kinds of figures of each data set, accelerator and precision that this machine has: trainings as `trilab
train` makes them, with everything logged, one for each seed; and epochs of all precisions in turns, each in a process
of its own, by the protocol of `trilab.timing`. The first tell the average epoch, throughput, memory and accuracy, the
second by how much one precision is faster than another.

Runs of each machine have an MLflow experiment of their own below the study's, so that one store may serve several.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trilab.errors import ConfigError
from trilab.reports.device_plan import DeviceStudy, machine_name
from trilab.reports.page import publish, require_block, require_store


def read(folder: Path) -> DeviceStudy:
    """The study in a folder.

    Raises:
        ConfigError: there is none, or it does not hold what it should.
    """
    return DeviceStudy.of(folder)


def report(folder: Path, uri: str, run: bool = False, jobs: int = 1) -> list[Path]:
    """Puts this machine's rows into the table, draws the chart anew, and returns the files.

    Args:
        folder: of the study.
        uri: the store.
        run: make the missing runs and timings first.
        jobs: must be 1, for runs side by side would slow each other.

    Raises:
        ConfigError: no such study or store, or a run of it is wrongly configured.
        UserError: a run failed, or there is nothing to report.
    """
    study = read(folder)
    require_block(folder)
    if jobs > 1:
        raise ConfigError(f"--jobs {jobs}: this study measures time, and runs side by side would slow each other.")
    if run:
        from trilab.reports.device_windows import measure
        from trilab.reports.launch import run_study

        run_study(study.here(), uri)
        measure(study, uri)
    require_store(uri)

    from trilab.reports import device_plots, device_tables
    from trilab.reports.device_runs import collect, rows
    from trilab.reports.machine import in_words, machine
    from trilab.tracking.store import MlflowClient

    client, results = MlflowClient(uri), folder / "results"
    name = machine_name()
    measured = collect(client, study)
    table = device_tables.merged(device_tables.read(results / "table.csv"), rows(client, study, measured, name))
    results.mkdir(exist_ok=True)
    drawn = ["epochs.png"] if device_plots.epochs(table, results / "epochs.png") else []
    own = machine(client, [one for found in measured.values() for one in found], "runs", ["torchvision"])
    facts = _facts(results / "machine.json", name, own)
    last_line = f"Last measured on {name}: {in_words(own, 'runs')}"
    shown = device_tables.shown(table, study.baseline), device_tables.machines(table)
    return publish(folder, shown, device_tables.comma_separated(table), facts, drawn, last_line)


def _facts(path: Path, name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of every machine of the table, this one's anew."""
    known: dict[str, Any] = json.loads(path.read_text())["machines"] if path.is_file() else {}
    known[name] = own
    return {"last_run": max(facts["last_run"] for facts in known.values()), "machines": known}
