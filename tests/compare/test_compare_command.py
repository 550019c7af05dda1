"""`trilab compare` from the outside: what it prints, writes and logs, and what it refuses."""

import csv
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up import Store
from PIL import Image

from trilab.cli import main
from trilab.compare.write import described


def trilab(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    return int(raised.value.code or 0)


@pytest.fixture
def store(workdir: Path) -> Store:
    return Store(workdir)


def test_a_sweep_is_compared_written_and_logged(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = store.sweep("precisions", {"precision": "fp32, bf16-mixed", "seed": "0, 1, 2, 3, 4"})
    store.precisions(sweep)
    assert trilab("compare", "precisions") == 0
    shown = capsys.readouterr().out
    # Every pair differs by exactly 0.002, and takes 8 s in place of 10 s.
    verdict = "bf16-mixed is 1.25x faster [1.25, 1.25] and worse by 0.0020 [0.0020, 0.0020] in test/accuracy"
    assert verdict.replace(" and ", " but ") in shown
    assert "mnist: test/accuracy (more is better), against fp32" in shown
    names = {path.name for path in Path("outputs/compare/precisions").iterdir()}
    plots = {"curves_over_steps.png", "curves_over_time.png", "scores.png", "speed_and_quality.png"}
    assert names == {"compare.html", "compare.md", "groups.csv", "runs.csv", *plots}
    assert {item.path for item in store.client.list_artifacts(sweep, "compare")} == {
        f"compare/{name}" for name in names
    }
    note = store.client.get_run(sweep).data.tags["mlflow.note.content"]
    assert note.startswith("what the sweep says\n\n<!-- compare -->\n")
    assert "1.25x faster" in note
    assert trilab("compare", "precisions") == 0
    assert store.client.get_run(sweep).data.tags["mlflow.note.content"] == note  # in place of the first, not beside it


def test_the_numbers_by_hand(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.precisions()
    assert trilab("compare", "made/up", "--format", "csv") == 0
    fp32, bf16 = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert fp32["precision"] == fp32["precision_effective"] == "fp32"
    assert [float(fp32[key]) for key in ("n", "mean", "median")] == pytest.approx([5, 0.92, 0.92])
    assert 0.90 < float(fp32["mean_low"]) < 0.92 < float(fp32["mean_high"]) < 0.94
    assert [float(bf16[key]) for key in ("difference", "pairs", "fit_s", "per_s")] == pytest.approx([-0.002, 5, 8, 500])
    ratios = [0.9 + seed / 100 - 0.002 for seed in range(5)], [0.9 + seed / 100 for seed in range(5)]
    product = 1.0
    for own, base in zip(*ratios, strict=True):
        product *= own / base
    assert float(bf16["ratio"]) == pytest.approx(product**0.2)
    assert (bf16["baseline"], bf16["paired"], bf16["interval"], bf16["verdict"]) == ("fp32", "True", "t", "worse")
    assert float(bf16["times_as_fast"]) == pytest.approx(1.25)
    runs = list(csv.DictReader(Path("outputs/compare/made_up/runs.csv").read_text().splitlines()))
    assert len(runs) == 10
    assert sorted(float(run["test/accuracy"]) for run in runs if run["precision"] == "fp32") == pytest.approx(
        [0.90, 0.91, 0.92, 0.93, 0.94]
    )


class Page(HTMLParser):
    """Everything in a page that could be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_the_page_stands_alone(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.precisions()
    store.run(9, 0.5, "<script>alert(1)</script>")
    assert trilab("compare", "made/up", "--format", "html", "--output", "page") == 0
    text = capsys.readouterr().out
    assert text == Path("page/compare.html").read_text()
    page = Page(text)
    assert len(page.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "&lt;script&gt;" in text
    assert "trilab compare made/up --format html --output page" in text
    assert "1% of the baseline" in text


def test_the_markdown_names_files_that_are_there(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.precisions()
    assert trilab("compare", "made/up", "--format", "markdown") == 0
    text = capsys.readouterr().out
    images = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(images) == 4
    for name in images:
        with Image.open(Path("outputs/compare/made_up") / name) as image:
            assert image.width >= 800
            assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20  # something is drawn
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in rows}) == 1
    assert any(line.startswith("| bf16-mixed | 5 | 0.918 [") for line in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "compare needs a sweep, an MLflow experiment or run ids"),
        (["precisons"], "Did you mean 'precisions'? Sweeps: precisions. Experiments: made/up."),
        (["0" * 32], f"no run {'0' * 32} in sqlite:"),
        (['it\'s "quoted"'], "is no sweep"),
        (["precisions", "--metric", "test/acuracy"], "Did you mean 'test/accuracy'? There is: perf/fit_s, "),
        (
            ["precisions", "--by", "optimiser"],
            "no such setting. Did you mean 'optimizer'? The runs differ in: precision.",
        ),
        (["precisions", "--by", "precision,"], "a name is missing between the commas"),
        (["precisions", "--baseline", "fp16"], "no group has it. Did you mean '16-mixed'?"),
        (["precisions", "--baseline", "modle=x"], "not a column. Columns: precision."),
        (["precisions", "--format", "htm"], "Did you mean 'html'? Allowed: text, markdown, csv, html."),
        (["precisions", "--margin", "2"], "expected a share of the baseline, above 0 and below 1"),
        (["precisions", "--metrics", "x"], "no option '--metrics'. Did you mean '--metric'?"),
        (["precisions", "--baseline"], "--baseline needs a value"),
        (["empty"], "no runs to compare in 'empty': 1 running."),
        (["precisions", "tracking.uri=sqlite:///nowhere.db"], "There is no store "),
    ],
)
def test_what_is_wrong_gets_one_line(
    store: Store, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = store.sweep("precisions", {"precision": "fp32, 16-mixed"})
    for precision in ("fp32", "16-mixed"):
        store.run(0, 0.9, precision, tags={"trilab.sweep": "precisions", "mlflow.parentRunId": sweep})
    if arguments == ["empty"]:
        Store(store.folder, "empty").run(0, 0.9, status="RUNNING")
    assert trilab("compare", *arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
    assert not Path("outputs").exists()


def test_two_sweeps_of_one_name(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [store.sweep("same", {}), store.sweep("same", {})]
    assert trilab("compare", "same") == 2
    assert all(run_id in capsys.readouterr().err for run_id in ids[:1])


def test_a_store_that_is_none(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mlflow.db").write_text("this is no database")
    assert trilab("compare", "x") == 1
    shown = capsys.readouterr().err
    assert "Cannot read the tracking store" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("arguments", [["x", "--format", "y"], ["x", "tracking.uri=sqlite:///nowhere.db"]])
def test_nothing_heavy_is_loaded_for_a_wrong_command(tmp_path: Path, arguments: list[str]) -> None:
    script = f"""
import sys
from trilab.cli import main
try:
    main(["compare", *{arguments!r}])
except SystemExit as ended:
    print(ended.code, [name for name in ("torch", "mlflow", "matplotlib", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "2 []\n"


def test_a_comparison_itself_loads_no_torch(store: Store) -> None:
    store.precisions()
    script = """
import sys
from trilab.cli import main
try:
    main(["compare", "made/up"])
except SystemExit as ended:
    print(ended.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"


def test_a_description_keeps_what_it_says() -> None:
    long = "x" * 7800
    said = described(long, "\n".join(f"- verdict {number}" for number in range(40)))
    assert said.startswith(long)
    assert len(said) <= 8000
    assert re.search(r"- \d+ lines more in `compare/`\n<!-- /compare -->$", said)
    assert described("y" * 7990, "- verdict") == "y" * 7990
    twice = described(described("before\n\nafter", "- a"), "- b")
    assert twice == described("before\n\nafter", "- b")
    between = "before\n\n<!-- compare -->\n- old\n<!-- /compare -->\n\nafter"
    assert described(between, "- b").startswith("before\n\nafter\n\n<!-- compare -->")
