"""The documentation: its worked example, word for word, and a build without a broken link."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from trilab.cli import main
from trilab.config.catalog import GROUPS, catalog

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "guide" / "extending.md").read_text()
COMMANDS = re.findall(r"^    (trilab train .*)$", GUIDE, re.M)
PAPERS = (ROOT / "docs" / "papers.md").read_text()
#: Code and configuration as one text each, without what breaks a citation over two lines.
SOURCES = {
    str(path.relative_to(ROOT)): " ".join(re.sub(r"\n *#?:? *", " ", path.read_text()).split())
    for folder, kind in (("src", "*.py"), ("conf", "*.yaml"))
    for path in sorted((ROOT / folder).rglob(kind))
}
#: `He, Liao & Chua 2017`, `He et al. 2017`, `Jordan 2024`: the first author, and the year.
CITATION = re.compile(r"\b([A-ZÀ-Þ][\w-]+)(?:, [A-ZÀ-Þ][\w-]+)*(?: et al\.| & [A-ZÀ-Þ][\w-]+)? ((?:19|20)\d\d)\b")
LINK = re.compile(r"https?://(?:arxiv\.org|doi\.org|papers\.nips\.cc)/(?:[^\s()\"'<>]|\([^\s()]*\))+")


@pytest.fixture
def followed(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which somebody did what the guide says."""
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+?\.(?:py|yaml))\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 4
    for path, content in blocks:
        (workdir / path).parent.mkdir(parents=True, exist_ok=True)
        (workdir / path).write_text(content)
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind, shade in (("rose", 60), ("tulip", 200)):
            folder = workdir / "flowers" / part / kind
            folder.mkdir(parents=True)
            for number in range(8):
                pixels = np.clip(generator.normal(shade, 30, (40, 48, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    monkeypatch.syspath_prepend(str(workdir))
    yield workdir
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_models"]:
        del sys.modules[name]  # another test has a module of that name


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_the_worked_example_runs_as_it_stands(line: str, followed: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        main([*shlex.split(line)[1:], "tracking.system_metrics=false"])
    assert raised.value.code == 0


def test_its_mistake_gets_its_line(followed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [(command, answer)] = re.findall(r"^    \$ (trilab .*)\n    (trilab: .*)$", GUIDE, re.M)
    with pytest.raises(SystemExit) as raised:
        main(shlex.split(command)[1:])
    assert raised.value.code == 2
    assert capsys.readouterr().err.strip() == answer


@pytest.mark.slow
def test_the_site_builds_with_every_option_and_no_broken_link(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for group in (*GROUPS, "hydra/launcher", "hydra/sweeper"):
        page = (tmp_path / "site" / "reference" / "conf" / group / "index.html").read_text()
        missing = [option.name for option in catalog(group) if f'id="{option.name.replace("/", "-")}"' not in page]
        assert not missing


def test_every_paper_that_the_code_refers_to_is_among_the_papers() -> None:
    known = {unquote(link) for link in LINK.findall(PAPERS)}
    missing = {
        f"{name}: {link}" for name, text in SOURCES.items() for link in _links(text) if unquote(link) not in known
    }
    assert not missing
    assert len(known) > 40


def test_every_citation_by_name_is_among_the_papers() -> None:
    lines = PAPERS.splitlines()
    missing = {
        f"{name}: {author} {year}"
        for name, text in SOURCES.items()
        for author, year in CITATION.findall(text)
        if not any(author in line and year in line for line in lines)
    }
    assert not missing


def _links(text: str) -> list[str]:
    return [link.rstrip(".,;:") for link in LINK.findall(text)]
