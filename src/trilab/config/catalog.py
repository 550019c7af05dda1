"""Every option of every group, with the line that describes it: the first comment of its file."""

import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from trilab.config.compose import CONFIG_MODULE

#: The groups that users set, in the order in which one asks about them.
GROUPS = (
    "experiment",
    "model",
    "data",
    "precision",
    "accelerator",
    "optimizer",
    "scheduler",
    "trainer",
    "callbacks",
    "tracking",
    "paths",
)
#: Those of Hydra's own, of a sweep.
SWEEP_GROUPS = ("hydra/launcher", "hydra/sweeper")
#: Hydra's own launcher, which has no file here: a group and an option, with what it is.
_HYDRAS = ("hydra/launcher", "basic", "One run after the other in this process, which loads its packages once")


@dataclass(frozen=True)
class Option:
    """One file of a configuration group."""

    group: str
    name: str
    description: str


def catalog(group: str, config_dir: Path | None = None) -> list[Option]:
    """The options of a group, those in its folders included, sorted by name; a user's own folder adds to them."""
    found: dict[str, Option] = {"basic": Option(*_HYDRAS)} if group == _HYDRAS[0] else {}
    roots: list[Traversable] = [resources.files(CONFIG_MODULE)]
    if config_dir is not None:
        roots.append(config_dir)
    for root in roots:
        folder = root.joinpath(group)
        if folder.is_dir():
            for name, file in _files(folder, ""):
                found[name] = Option(group, name, describe(file.read_text(encoding="utf-8")))
    return [found[name] for name in sorted(found)]


def experiments_with(group: str, option: str) -> list[str]:
    """The experiments that choose an option of a group."""
    folder = resources.files(CONFIG_MODULE).joinpath("experiment")
    line = f"override /{group}: {option}\n"
    return [
        experiment.name
        for experiment in catalog("experiment")
        if line in folder.joinpath(f"{experiment.name}.yaml").read_text(encoding="utf-8")
    ]


def own_data(experiment: str) -> str | None:
    """The data that an experiment's file chooses; None of an experiment that is not trilab's."""
    file = resources.files(CONFIG_MODULE).joinpath("experiment", f"{experiment}.yaml")
    found = re.search(r"override /data: (\S+)", file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1] if found else None


def describe(text: str) -> str:
    """The first comment line of a YAML file that is not an instruction to Hydra."""
    for line in text.splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").strip()
        if line.strip() and not line.startswith("#"):
            break
    return ""


def _files(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    files: list[tuple[str, Traversable]] = []
    for item in folder.iterdir():
        if item.is_dir():
            files += _files(item, f"{prefix}{item.name}/")
        elif item.name.endswith(".yaml"):
            files.append((prefix + item.name.removesuffix(".yaml"), item))
    return files
