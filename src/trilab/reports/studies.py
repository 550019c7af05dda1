"""Where studies are found, what reports on each, and where its results go."""

import json
import os
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import yaml

from trilab.errors import ConfigError, nearest
from trilab.reports.study import Study, digest

if TYPE_CHECKING:
    from trilab.tracking.store import MlflowClient

#: The package that brings the studies into the wheel, and the folder of a user's own.
_PACKAGE, _OWN = "trilab_experiments", Path("experiments")
#: Where a study with other settings has its results, unless the user says where.
_VARIANTS = Path("outputs") / "studies"
#: Modules by the short names that `report:` of a study.yaml takes; it may name another module by its dotted name.
KINDS = {
    "agents": "trilab.reports.rl_study",
    "compare": "trilab.compare.study",
    "device": "trilab.reports.device_study",
    "precision": "trilab.reports.precision_study",
    "recsys": "trilab.reports.recsys_study",
}
_BLOCK = "<!-- results -->\n<!-- /results -->\n"


class Kind(Protocol):
    """A module that reports on studies of a kind. It imports nothing heavy until it reports."""

    def read(self, folder: Path) -> Study:
        """The study in a folder; raises ConfigError where it does not hold what it should."""
        ...

    def report(self, folder: Path, uri: str, run: bool, jobs: int) -> list[Path]:
        """Makes the missing runs, `jobs` at once, if it is to, writes the report and returns its files."""
        ...


def folders() -> dict[str, Path]:
    """Every study by its name: those of the working folder, and those that came with trilab."""
    found = util.find_spec(_PACKAGE)
    homes = [_OWN.absolute(), *(Path(home) for home in (found and found.submodule_search_locations) or [])]
    studies: dict[str, Path] = {}
    for home in homes:
        for file in sorted(home.glob("*/study.yaml")):
            studies.setdefault(file.parent.name, file.parent)
    return dict(sorted(studies.items()))


def find(name: str) -> Path:
    """The folder of a study, from its name or a path.

    Raises:
        ConfigError: there is none.
    """
    if os.sep in name:
        if not (Path(name) / "study.yaml").is_file():
            raise ConfigError(f"study: no study in {name}: there is no file {Path(name) / 'study.yaml'}.")
        return Path(name)
    known = folders()
    if name not in known:
        raise ConfigError(f"study: no study '{name}'.{nearest(name, known)} There are: {', '.join(known)}.")
    return known[name]


def kind(folder: Path) -> Kind:
    """The module that reports on a study.

    Raises:
        ConfigError: its study.yaml names none, or one that does not exist.
    """
    path = folder / "study.yaml"
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from None
    given = content.get("report") if isinstance(content, dict) else None
    if not given:
        raise ConfigError(f"{path}: 'report' is missing. Allowed: {', '.join(KINDS)}, or the dotted name of a module.")
    name = KINDS.get(given, str(given))
    if "." not in name or not _exists(name):
        raise ConfigError(
            f"{path}: report: '{given}' is no kind of study.{nearest(str(given), KINDS)} Allowed: {', '.join(KINDS)}, "
            "or the dotted name of a module."
        )
    module = import_module(name)
    missing = [what for what in ("read", "report") if not hasattr(module, what)]
    if missing:
        raise ConfigError(f"{path}: report: {name} has no function `{missing[0]}`.")
    return cast(Kind, module)


def _exists(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def question(folder: Path) -> str:
    """The first heading of a study's README."""
    readme = folder / "README.md"
    lines = readme.read_text().splitlines() if readme.is_file() else []
    return next((line.removeprefix("# ").strip() for line in lines if line.startswith("# ")), "")


def last_run(folder: Path) -> str:
    """The day of the last run that a study's results hold, as YYYY-MM-DD; empty where it has none."""
    try:
        facts = json.loads((folder / "results" / "machine.json").read_text())
        return str(facts["last_run"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@dataclass(frozen=True)
class Progress:
    """How many of a study's runs the store holds as finished."""

    done: int
    runs: int


def progress(study: Study, client: "MlflowClient | None") -> Progress:
    """Counts the runs that `trilab study` would not make again.

    Args:
        study: as this machine runs it.
        client: of the store; None where there is none yet.
    """
    seeds: list[int | None] = [*study.seeds] or [None]
    whole = len(seeds) * len(study.runs)
    experiment = client.get_experiment_by_name(study.name) if client is not None else None
    if client is None or experiment is None:
        return Progress(0, whole)
    from trilab.reports.launch import identify
    from trilab.reports.runs import all_runs

    finished: dict[str, str] = {}
    for kept in sorted(all_runs(client, experiment.experiment_id), key=lambda kept: kept.info.start_time):
        if kept.info.status == "FINISHED" and "trilab.config_hash" in kept.data.tags:
            finished.setdefault(kept.data.tags["trilab.config_hash"], kept.info.run_id)
    done = 0
    for seed in seeds:
        ids: dict[str, str] = {}
        for run in study.runs:
            if any(name not in ids for name in run.needs):
                continue
            hashes = identify(study.overrides(run, seed, ids))
            run_id = next((finished[one] for one in finished if one in hashes), None)
            done += run_id is not None
            if run_id is not None and run.name is not None:
                ids[run.name] = run_id
    return Progress(done, whole)


def results_folder(folder: Path, changes: Sequence[str], to: Path | None) -> Path:
    """The folder whose results a run of a study renews; it is not made yet.

    The study's own, unless the user names another, its files are not the user's to write, or its runs are changed:
    results with other settings never take the place of the study's.
    """
    if to is not None:
        return to
    if changes:
        return _VARIANTS / f"{folder.resolve().name}+{digest(changes)}"
    return folder if _writable(folder) else _OWN / folder.name


def prepare(folder: Path, target: Path, changes: Sequence[str]) -> None:
    """Makes the folder that results go to a study of its own, unless it is the study's or was made so before.

    Raises:
        ConfigError: it holds another study, or other files in the place of the study's.
    """
    if target.resolve() == folder.resolve():
        return
    text = (folder / "study.yaml").read_text()
    if changes:
        added = yaml.safe_dump({"changes": list(changes)}, default_flow_style=False)
        text = f"{text.rstrip()}\n# Overrides of every run, after its own.\n{added}"
    own, readme = target / "study.yaml", target / "README.md"
    if own.is_file() and own.read_text() != text:
        raise ConfigError(f"--to {target}: holds another study, or this one with other settings. Name another folder.")
    if own.is_file():
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--to {target}: is there already, and no study. Name another folder.")
    target.mkdir(parents=True, exist_ok=True)
    if changes:
        # The README's answer is that of the study as it was.
        of = f"The runs of `{folder.resolve().name}` with other settings: `changes` in `study.yaml`."
        readme.write_text(f"# {question(folder)}\n\n{of}\n\n{_BLOCK}")
    else:
        shutil.copyfile(folder / "README.md", readme)
        if (folder / "results").is_dir():
            shutil.copytree(folder / "results", target / "results")
    own.write_text(text)  # last: it says that the folder is whole


def _writable(folder: Path) -> bool:
    """Whether a study's files are the user's: not where packages are installed, and not read-only."""
    packages = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    return os.access(folder, os.W_OK) and packages.isdisjoint(folder.resolve().parents)
