"""What the README tells a reader to do works as it stands there, and what it lists is all there is."""

import re
import shlex
from pathlib import Path

import pytest

import trilab.config.launcher
from trilab.cli import COMMANDS, main
from trilab.commands import compare, sweep
from trilab.config.preflight import preflight

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
INDEX = (ROOT / "docs" / "index.md").read_text()
START = (ROOT / "docs" / "guide" / "start.md").read_text()
COMMAND_LINES = sorted(
    {
        line.partition(" #")[0].strip()
        for text in (TEXT, INDEX, START)
        for line in re.findall(r"^    (?:\$ )?(trilab .*)$", text, re.M)
    }
)
MISTAKES = re.findall(r"^    \$ (trilab .*)\n    (trilab: .*)$", TEXT + START, re.M)
#: Groups of which every option stands in the README's table; those of Hydra's own that do too.
LISTED = (
    "experiment",
    "model",
    "data",
    "precision",
    "accelerator",
    "optimizer",
    "scheduler",
    "hydra/launcher",
    "hydra/sweeper",
)
HYDRAS = {"hydra/launcher": {"basic"}}


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if line not in dict(MISTAKES)])
def test_every_command_line_is_valid(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A reader on a cluster has its commands, and has installed what the launcher needs.
    monkeypatch.setattr(trilab.config.launcher, "which", lambda name: name)
    monkeypatch.setattr(trilab.config.launcher, "find_spec", lambda name: name)
    _, subcommand, *arguments = shlex.split(line.replace("RUN_ID", "0" * 32))
    if subcommand in ("COMMAND", "--help"):
        return
    assert subcommand in COMMANDS
    flags = {"-m", "--cfg", "-sc", "--config-dir"} & set(arguments)
    if subcommand == "train" and flags <= {"-m"}:
        preflight([argument for argument in arguments if argument != "-m"], None, "-m" in flags)
    elif subcommand == "compare":
        compare.arguments(arguments)
    elif subcommand == "sweep":
        sweep._arguments(arguments)


@pytest.mark.parametrize(("command", "answer"), MISTAKES)
def test_every_mistake_gets_the_line_that_stands_there(
    command: str, answer: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(shlex.split(command)[1:])
    assert raised.value.code == 2
    assert capsys.readouterr().err.strip() == answer


@pytest.mark.parametrize("group", LISTED)
def test_the_table_has_every_option_of_a_group_and_no_other(group: str) -> None:
    folder = ROOT / "conf" / group
    there = {str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml")}
    rows = re.findall(rf"^\| `{re.escape(group)}`[^|]*\| (.*) \|$", TEXT, re.M)
    named = {name for row in rows for name in re.findall(r"`([^`=]+)`", row)}
    assert named == there | HYDRAS.get(group, set())


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"(?<!!)\[[^]]+\]\(([^)#]+)\)", TEXT)
    assert len(links) > 15
    assert not [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]


def test_the_site_begins_as_the_readme_does() -> None:
    assert TEXT.split("\n\n")[1] == INDEX.split("\n\n")[1]
