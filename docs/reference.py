"""Makes pages whenever the site is built: for each configuration group, each package of modules, each study.

A hook of MkDocs: nothing of it is kept in the repository, so that it cannot differ from the code.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from trilab.config.catalog import GROUPS, Option, catalog

ROOT = Path(__file__).parents[1]
CONF, SOURCE, STUDIES = ROOT / "conf", ROOT / "src" / "trilab", ROOT / "experiments"
#: Those of trilab's own options for Hydra's launchers and sweepers too, which `trilab list` leaves to the guide.
ALL_GROUPS = (*GROUPS, "hydra/launcher", "hydra/sweeper")
#: Packages whose modules a person who adds something of their own looks up.
PACKAGES = ("models", "data", "callbacks", "numerics", "tracking", "serving", "sweeps", "compare", "distributed")
_TARGET = re.compile(r"_target_:\s*(trilab(?:\.\w+)+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the pages into the navigation."""
    groups = [{group: f"reference/conf/{group}.md"} for group in ALL_GROUPS]
    modules = [{name: f"reference/api/{name}.md"} for name in packages()]
    root = {"conf/train.yaml": "reference/conf/train.md"}
    studies = [f"studies/{folder.name}/index.md" for folder in study_folders()]
    assert config.nav is not None
    config.nav.append({"Studies": studies})
    config.nav.append({"Reference": [{"Configuration": [root, *groups]}, {"Modules": modules}]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    pages = {f"reference/conf/{group}.md": group_page(group) for group in ALL_GROUPS}
    pages["reference/conf/train.md"] = root_page()
    pages |= {f"reference/api/{name}.md": package_page(name) for name in packages()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    for folder in study_folders():
        for file in (folder / "README.md", *sorted(folder.glob("results/*.png"))):
            path = str(file.relative_to(STUDIES)).replace("README.md", "index.md")
            files.append(File.generated(config, f"studies/{path}", abs_src_path=str(file)))
    return files


def study_folders() -> list[Path]:
    """Those of every study."""
    return sorted(file.parent for file in STUDIES.glob("*/study.yaml"))


def group_page(group: str) -> str:
    """Every option of a group, as its file states it."""
    options = catalog(group)
    node = group.replace("/", ".")
    lines = [f"# {group}", "", f"`{group}=OPTION` chooses one; `{node}.KEY=VALUE` sets a key of it.", ""]
    lines += ["| option | |", "| --- | --- |"]
    lines += [f"| [`{option.name}`](#{_anchor(option)}) | {_cell(option.description)} |" for option in options]
    for option in options:
        lines += ["", f"## {option.name} {{ #{_anchor(option)} }}", ""]
        file = CONF / group / f"{option.name}.yaml"
        if not file.is_file():  # one of Hydra's own
            lines += [f"{option.description}."]
            continue
        text = file.read_text(encoding="utf-8")
        lines += ["```yaml", text.rstrip(), "```"]
        targets = [target for target in dict.fromkeys(_TARGET.findall(text)) if _page_of(target)]
        if targets:
            links = ", ".join(f"[`{target}`](../api/{_page_of(target)}.md#{target})" for target in targets)
            lines += ["", f"Builds {links}."]
    return "\n".join(lines) + "\n"


def root_page() -> str:
    """The root of the configuration."""
    text = (CONF / "train.yaml").read_text(encoding="utf-8")
    return f"# conf/train.yaml\n\nWhat every command starts from.\n\n```yaml\n{text.rstrip()}\n```\n"


def packages() -> list[str]:
    """Packages with modules of their own, by dotted names below `trilab`."""
    found = []
    for name in PACKAGES:
        for folder in sorted({file.parent for file in (SOURCE / name).rglob("*.py") if file.stem != "__init__"}):
            found.append(".".join(folder.relative_to(SOURCE).parts))
    return found


def package_page(name: str) -> str:
    """The public names of every module of a package."""
    folder = SOURCE.joinpath(*name.split("."))
    modules = sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")
    lines = [f"# trilab.{name}"]
    for module in modules:
        lines += ["", f"::: trilab.{name}.{module}"]
    return "\n".join(lines) + "\n"


def _page_of(target: str) -> str | None:
    package = ".".join(target.split(".")[1:-2])
    return package if package in packages() else None


def _anchor(option: Option) -> str:
    return option.name.replace("/", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
