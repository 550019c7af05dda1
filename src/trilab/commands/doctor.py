"""trilab doctor: check this machine

usage: trilab doctor [tracking.uri=URI] [paths.data=DIR]

Tries what a run needs: packages, accelerators, the precisions of each (a small training step, not a look-up), the
tracking store, data sets. Each row has a mark and, where something is missing, a remedy.

exit code  0 the default experiment can run here, 1 it cannot
"""

import os
import platform
import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from rich.table import Table

from trilab.cli import cause
from trilab.config.catalog import catalog
from trilab.config.compose import compose, option_alone
from trilab.config.job import build
from trilab.console import program, show
from trilab.tracking.settings import Tracking, redacted, sqlite_path

Mark = Literal["ok", "absent", "wrong"]
_SHOWN = {"ok": "[green]✓[/green]", "absent": "[yellow]–[/yellow]", "wrong": "[red]✗[/red]"}
_REINSTALL = "pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class Finding:
    """A row: `wrong` stops the default experiment; `absent` only what needs it."""

    mark: Mark
    what: str
    seen: str
    remedy: str = ""


def main(argv: list[str]) -> int:
    """Prints the table."""
    config = compose(argv)
    settings: Tracking = build(config.tracking)
    findings = list(packages())
    if not any(finding.mark == "wrong" for finding in findings):
        findings += [*accelerators(), store(settings), *data_sets(argv)]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(_SHOWN[finding.mark], finding.what, finding.seen, finding.remedy)
    failed = [finding.what for finding in findings if finding.mark == "wrong"]
    if failed:
        show(table, "", f"The default experiment cannot run here: see {', '.join(failed)}.")
        return 1
    show(table, "", f"The default experiment can run here: {program()} train")
    return 0


def packages() -> Iterator[Finding]:
    """Python and the packages that trilab states it needs."""
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}")
    for text in metadata.requires("trilab") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding("wrong", requirement.name, "not installed", _REINSTALL)
            continue
        # A local version (2.13.0+cpu) fits wherever its public part does.
        fits = requirement.specifier.contains(re.sub(r"\+.*", "", version), prereleases=True)
        yield Finding("ok" if fits else "wrong", requirement.name, version, "" if fits else f"needs {requirement}")


def accelerators() -> Iterator[Finding]:
    """What this machine computes on and in, tried."""
    from trilab import runtime

    runtime.prepare_imports()
    import torch
    import torchvision

    from trilab.precision import runs, slowdown

    compiled = "with" if torchvision.extension._has_ops() else "without"
    yield Finding("ok", "torchvision operators", f"loads {compiled} its compiled operators (trilab uses none of them)")
    present = runtime.available()
    yield _cuda("cuda" in present)
    yield Finding("ok" if "mps" in present else "absent", "accelerator=mps", "there" if "mps" in present else "none")
    for device in present:
        name = runtime.device_name(device)
        yield Finding(
            "ok", f"accelerator={device}", f"{name}, {torch.get_num_threads()} threads" * (device == "cpu") or name
        )
        for precision, dtype in (("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)):
            works = runs(device, dtype)
            seen = "a training step ran" if works else "a training step failed"
            note = ""
            if device == "cpu":
                note = f"a matrix product takes {slowdown(dtype):.2g} times as long as in fp32"
                if precision == "16-mixed":
                    note = f"runs as bf16-mixed; where float16 is forced, {note}"
            yield Finding(
                "ok" if works else "absent",
                f"  precision={precision}",
                seen,
                note or ("" if works else "precision=fp32"),
            )
        errors = {setting: runtime.matmul_error(device, setting) for setting in ("highest", "high", "medium")}
        shown = ", ".join(f"{setting} {error:.1e}" for setting, error in errors.items())
        yield Finding("ok", "  fp32 matmul error", shown, f"auto takes {runtime.best_matmul_precision(device)}")


def _cuda(present: bool) -> Finding:
    import torch

    if present:
        return Finding("ok", "accelerator=cuda", f"CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi"):
        build_of = torch.version.cuda or "no CUDA (a CPU build)"
        return Finding(
            "absent",
            "accelerator=cuda",
            f"there is a driver, but torch has {build_of}",
            "install torch for your CUDA: pytorch.org",
        )
    return Finding("absent", "accelerator=cuda", "no NVIDIA driver")


def store(settings: Tracking) -> Finding:
    """Whether the tracking store answers and takes writes. Leaves nothing behind in it."""
    where = redacted(settings.uri)
    database = sqlite_path(settings.uri)
    if database is not None:
        try:
            return Finding("ok", "tracking store", where + _sqlite(database.exists(), str(database)))
        except (sqlite3.Error, OSError) as error:
            return Finding(
                "wrong", "tracking store", f"{where}: {error}", "tracking.uri=sqlite:////a/writable/folder/mlflow.db"
            )
    from trilab.tracking.store import connect

    try:
        client, experiment = connect(settings)
        run = client.create_run(experiment, run_name="trilab doctor")
        client.set_terminated(run.info.run_id)
        client.delete_run(run.info.run_id)
    except Exception as error:
        return Finding(
            "wrong",
            "tracking store",
            " ".join(str(error).split())[:200],
            "is the server up? MLFLOW_TRACKING_URI, tracking.uri",
        )
    return Finding("ok", "tracking store", f"{where} answers and takes writes")


def _sqlite(exists: bool, database: str) -> str:
    if not exists:
        if not os.access(Path(database).parent, os.W_OK):
            raise OSError(f"the folder {Path(database).parent} is not writable")
        return " (made by the first run)"
    connection = sqlite3.connect(database, timeout=5)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    finally:
        connection.close()
    return " is there and takes writes"


def data_sets(overrides: list[str]) -> Iterator[Finding]:
    """Whether each data option could be used now. Nothing is downloaded."""
    for option in catalog("data"):
        node = option_alone("data", option.name, [o for o in overrides if o.startswith("paths.")])
        if yours := [key for key, value in node.items() if value == "???"]:
            yield Finding("absent", f"data={option.name}", option.description, f"give data.{', data.'.join(yours)}")
            continue
        downloads = "download" in node
        if downloads:
            node["download"] = False
        try:
            build(node).prepare_data()
        except Exception as error:
            folder = Path(node["root"]).absolute() if downloads else None
            seen = f"not in {folder}" if folder else str(cause(error) or error)
            remedy = "the first run fetches it, if there is internet; or set TRILAB_DATA_DIR" if folder else ""
            yield Finding("absent", f"data={option.name}", seen, remedy)
        else:
            yield Finding("ok", f"data={option.name}", option.description)
