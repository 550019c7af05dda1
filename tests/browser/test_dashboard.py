"""The pages that `trilab ui` serves, in a real browser, on a store that real runs have made.

Every text and number that is looked for comes from the store, through MLflow's client.
"""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dashboard_pages as pages
import psutil
import pytest
from dashboard_store import AGENT, CLICKS, IMAGES, SWEEP, Dashboard, Store, fill, served
from mlflow.entities import Run

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

#: What the view of the recommender has, in its order.
COLUMNS = [
    "metrics.`test/auc`", "metrics.`val/auc`", "metrics.`best/test/auc`", "metrics.`perf/train_samples_per_s`",
    "metrics.`perf/fit_s`", "metrics.`perf/peak_memory_mb`", "tags.`precision.effective`",
    "tags.`accelerator.effective`", "params.`seed`",
]  # fmt: skip
NAME, CREATED = "attributes.`Run Name`", "runDateAndNestInfo"


@pytest.fixture(scope="module")
def program() -> str:
    """Of the browser."""
    pytest.importorskip("playwright", reason="playwright is not installed; it is in the extra test")
    found = pages.chromium()
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(pages.CHROMIUM)} is on the PATH")
    return found


@pytest.fixture(scope="module")
def store(program: str, fake_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return fill(tmp_path_factory.mktemp("dashboard"), fake_data)


@pytest.fixture(scope="module")
def dashboard(store: Store) -> Iterator[Dashboard]:
    with served(store) as found:
        yield found


@pytest.fixture(scope="module")
def context(program: str, dashboard: Dashboard) -> Iterator["BrowserContext"]:
    with pages.browsing(program, 2000, 1000) as found:  # so wide that the table draws every column
        yield found


@pytest.fixture
def page(context: "BrowserContext") -> Iterator["Page"]:
    found = context.new_page()
    yield found
    found.close()


def run_page(page: "Page", dashboard: Dashboard, run: Run) -> None:
    page.goto(pages.run_address(dashboard.address, run.info.experiment_id, run.info.run_id))
    page.get_by_test_id("runs-header").get_by_text(run.info.run_name, exact=True).wait_for()


def test_the_sweep_opens_and_its_runs_are_nested_in_it_by_their_values(
    page: "Page", dashboard: Dashboard, store: Store
) -> None:
    parent, runs = store.sweep(CLICKS, SWEEP)
    pages.open_table(page, dashboard.pages[CLICKS])
    assert [row[NAME] for row in pages.rows(page)] == [parent.info.run_name] == [SWEEP]
    pages.open_sweep(page, SWEEP, len(runs))
    shown = [row[NAME] for row in pages.rows(page)]
    assert shown == [SWEEP, *(run.info.run_name for run in runs[::-1])]
    values = {f"seed={run.data.params['seed']} precision={run.data.params['precision.name']}" for run in runs}
    assert set(shown[1:]) == values
    assert len(values) == 4
    links = [page.get_by_role("link", name=name, exact=True).bounding_box() for name in shown]
    assert all(link is not None and links[0] is not None and link["x"] > links[0]["x"] + 10 for link in links[1:])


def test_the_table_of_runs_has_the_columns_that_matter_with_their_values(
    page: "Page", dashboard: Dashboard, store: Store
) -> None:
    _, runs = store.sweep(CLICKS, SWEEP)
    pages.open_table(page, dashboard.pages[CLICKS])
    pages.open_sweep(page, SWEEP, len(runs))
    assert [column for column in pages.headers(page) if "." in column][1:] == COLUMNS
    shown = {row[NAME]: row for row in pages.rows(page)}
    metrics = [column.split("`")[1] for column in COLUMNS if column.startswith("metrics")]
    for run in runs:
        row, data = shown[run.info.run_name], run.data
        for metric in metrics:
            text = row[f"metrics.`{metric}`"]
            assert (float(text) if text != "-" else None) == data.metrics.get(metric), metric
        assert row["tags.`precision.effective`"] == data.tags["precision.effective"] == data.params["precision.name"]
        assert row["tags.`accelerator.effective`"] == "cpu"
        assert row["params.`seed`"] == data.params["seed"]
    assert len({shown[run.info.run_name]["metrics.`test/auc`"] for run in runs}) > 1
    best = max(runs, key=lambda run: float(run.data.metrics["val/auc"]))
    assert float(shown[SWEEP]["metrics.`best/test/auc`"]) == best.data.metrics["test/auc"]
    # Each title is there to the last letter.
    cut = page.locator(".ag-header-cell-text").evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth + 1)")
    assert not cut


def test_the_page_is_one_of_model_training_with_the_experiments_description(
    page: "Page", dashboard: Dashboard, store: Store
) -> None:
    pages.open_table(page, dashboard.pages[CLICKS])
    assert page.get_by_role("heading", name="Runs", exact=True).is_visible()
    about = store.client.get_experiment_by_name(CLICKS).tags["mlflow.note.content"]
    first = about.splitlines()[0].split("**")[1]
    assert first.startswith("DeepFM on a planted click log")
    assert page.get_by_text(first, exact=True).is_visible()


def test_the_sweeps_page_has_its_best_run_and_a_table_of_all(page: "Page", dashboard: Dashboard, store: Store) -> None:
    parent, runs = store.sweep(CLICKS, SWEEP)
    run_page(page, dashboard, parent)
    note = page.get_by_test_id("note-editor-preview-content")
    best = max(runs, key=lambda run: float(run.data.metrics["val/auc"]))
    wanted = f"Best {best.info.run_name}: val/auc {best.data.metrics['val/auc']:.5g}"
    assert note.locator("p").first.inner_text().startswith(wanted)
    assert "4 of 4 runs finished" in note.inner_text()
    assert note.locator("th").all_inner_texts() == ["run", "result", "speed"]
    table = {line.locator("td").first.inner_text(): line for line in note.locator("tbody tr").all()}
    assert set(table) == {run.info.run_name for run in runs}
    for run in runs:
        _, result, speed = (cell.strip() for cell in table[run.info.run_name].locator("td").all_inner_texts())
        assert result.startswith(f"test/auc {run.data.metrics['test/auc']:.5g}")
        assert speed.startswith(f"{run.data.metrics['perf/train_samples_per_s']:,.0f} train samples/s")
        link = table[run.info.run_name].locator("a").get_attribute("href")
        assert link == f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def test_the_charts_draw_every_point_of_every_run_with_the_result_first(
    page: "Page", dashboard: Dashboard, store: Store
) -> None:
    _, runs = store.sweep(CLICKS, SWEEP)
    pages.open_table(page, dashboard.pages[CLICKS])
    pages.open_sweep(page, SWEEP, len(runs))
    pages.show_charts(page)
    sections = page.get_by_test_id("experiment-view-compare-runs-section-header").all_inner_texts()
    assert [text.split()[0] for text in sections][:4] == ["val", "train", "test", "perf"]
    first = page.get_by_test_id("experiment-view-compare-runs-card").first
    assert first.inner_text().splitlines()[0] == "val/auc"
    plot = pages.chart(page, "val/auc", lines=len(runs))
    drawn = {line["run"]: list(zip(line["x"], line["y"], strict=True)) for line in pages.lines(plot)}
    for run in runs:
        history = store.client.get_metric_history(run.info.run_id, "val/auc")
        assert len(history) == 3
        assert drawn[run.info.run_id] == [(point.step, pytest.approx(point.value)) for point in history]
    paths = plot.locator(".scatterlayer path.js-line").all()
    assert len([path for path in paths if (path.get_attribute("d") or "").count("L") >= 2]) >= len(runs)
    box = plot.bounding_box()
    assert box is not None
    assert box["width"] > 150
    assert box["height"] > 100


def test_the_comparison_of_runs_draws_parallel_coordinates(page: "Page", dashboard: Dashboard, store: Store) -> None:
    _, runs = store.sweep(CLICKS, SWEEP)
    ids = [run.info.run_id for run in runs]
    plot = pages.open_comparison(page, pages.compare_address(dashboard.address, runs[0].info.experiment_id, ids))
    assert page.get_by_role("heading", name="Comparing 4 Runs from 1 Experiment").is_visible()
    pages.choose(page, "Metrics", ["test/auc", "perf/fit_s"])
    plot.locator(".axis-title", has_text="perf/fit_s").wait_for()
    axes = {axis["label"]: axis for axis in pages.coordinates(plot)}
    assert {"seed", "precision.name", "test/auc", "perf/fit_s"} <= set(axes)
    for metric in ("test/auc", "perf/fit_s"):
        assert axes[metric]["values"] == pytest.approx([run.data.metrics[metric] for run in runs])
    assert axes["seed"]["values"] == [int(run.data.params["seed"]) for run in runs]
    precision = axes["precision.name"]
    named = [precision["names"][place] for place in precision["values"]]
    assert named == [run.data.params["precision.name"] for run in runs]
    assert {"seed", "test/auc"} <= set(plot.locator(".axis-title").all_text_contents())
    # The lines themselves: a canvas that is not all of one colour.
    assert pages.colours(plot.locator("canvas.gl-canvas-context")) > 1


def test_a_stopped_run_is_shown_as_killed_and_says_by_what(page: "Page", dashboard: Dashboard, store: Store) -> None:
    [run] = store.runs(AGENT)
    assert run.info.status == "KILLED"
    run_page(page, dashboard, run)
    assert page.get_by_test_id("key-value-Status").get_by_text("Killed", exact=True).is_visible()
    note = page.get_by_test_id("note-editor-preview-content").inner_text()
    assert note.splitlines()[0] == "KILLED by SIGTERM"
    assert f"trilab reproduce {run.info.run_id}" in note


def test_a_runs_page_has_its_result_and_the_data_that_it_saw(page: "Page", dashboard: Dashboard, store: Store) -> None:
    [run] = store.runs(IMAGES)
    run_page(page, dashboard, run)
    note = page.get_by_test_id("note-editor-preview-content").inner_text()
    assert note.startswith(f"Result test/accuracy {run.data.metrics['test/accuracy']:.5g}: goal >= 0.99 missed")
    inputs = {tag.value: one.dataset for one in run.inputs.dataset_inputs for tag in one.tags if "context" in tag.key}
    assert set(inputs) == {"training", "validation", "test"}
    page.get_by_text(f"vision/mnist ({inputs['training'].digest})", exact=True).click()
    drawer = page.get_by_role("dialog")
    drawer.get_by_text("3 datasets used").wait_for()
    said = drawer.inner_text().lower().splitlines()
    for part, dataset in inputs.items():
        assert said[said.index(f"vision/mnist ({dataset.digest})") + 1] == part
    assert f"images: {json.loads(inputs['training'].profile)['images']}" in said
    assert f"digest: {inputs['training'].digest}" in said


def test_ctrl_c_leaves_no_process_behind(store: Store, program: str) -> None:
    with served(store) as dashboard:
        started = psutil.Process(dashboard.process.pid).children(recursive=True)
        assert any("mlflow" in " ".join(child.cmdline()) for child in started)
        with urllib.request.urlopen(f"{dashboard.address}/health", timeout=30) as answer:
            assert answer.status == 200
    assert dashboard.process.returncode == 0
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
