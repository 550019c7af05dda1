"""MLflow's pages in a headless Chromium: opened, clicked and read, as a person would."""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

#: Names that Chromium goes by, as it is installed.
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
#: Longest wait for anything on a page, in seconds: a machine may have other work.
PATIENCE_S = 90.0
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
#: Set before a page begins: without it MLflow's assistant opens itself and takes a quarter of a new visitor's page.
_NO_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
#: Its columns' names and, by row, their texts. A row of AG Grid is in several parts, one for each pinned side.
_READ_TABLE = """() => {
  const rows = {};
  for (const cell of document.querySelectorAll(".ag-row .ag-cell[col-id]")) {
    const index = cell.closest(".ag-row").getAttribute("row-index");
    const named = cell.querySelector("a");
    (rows[index] ??= {})[cell.getAttribute("col-id")] = (named ?? cell).innerText.trim();
  }
  return Object.keys(rows).sort((a, b) => a - b).map(index => rows[index]);
}"""
_READ_HEADERS = """() => [...document.querySelectorAll(".ag-header-cell[col-id]")]
  .sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)
  .map(cell => cell.getAttribute("col-id"))"""
#: Lines of a chart: the run, and its points. Plotly keeps numbers in typed arrays, which do not travel by themselves.
_READ_LINES = """chart => chart.data
  .filter(line => line.mode !== "none" && line.x?.length)
  .map(line => ({run: line.uuid, x: Array.from(line.x), y: Array.from(line.y)}))"""
_READ_COORDINATES = """plot => plot.data[0].dimensions
  .map(one => ({label: one.label, values: Array.from(one.values), names: one.ticktext ?? null}))"""


def chromium() -> str | None:
    """The browser's program; None where there is none."""
    return next((path for name in CHROMIUM if (path := shutil.which(name))), None)


@contextlib.contextmanager
def browsing(program: str, width: int, height: int) -> Iterator["BrowserContext"]:
    """A new browser with a profile of its own, as a first visitor has it.

    Args:
        program: Chromium's.
        width: of its pages, in pixels.
        height: likewise.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS, timeout=PATIENCE_S * 1000)
        try:
            context = browser.new_context(viewport={"width": width, "height": height})
            context.set_default_timeout(PATIENCE_S * 1000)
            context.add_init_script(_NO_ASSISTANT)
            yield context
        finally:
            browser.close()


def run_address(address: str, experiment_id: str, run_id: str) -> str:
    """The page of a run."""
    return f"{address}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def compare_address(address: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The page that compares runs of an experiment."""
    runs, experiments = quote(json.dumps(list(run_ids))), quote(json.dumps([experiment_id]))
    return f"{address}/#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning"


def open_table(page: "Page", address: str) -> None:
    """Opens the runs of an experiment, and waits until they are there."""
    page.goto(address)
    page.locator(".ag-row a").first.wait_for()
    page.wait_for_function("() => !document.querySelector('.ag-overlay-loading-center')")


def open_sweep(page: "Page", name: str, runs: int) -> None:
    """Opens a sweep's row, and waits for the rows of its runs."""
    row = page.locator(".ag-row").filter(has=page.get_by_role("link", name=name, exact=True))
    before = page.locator(".ag-row a").count()
    row.locator("[col-id='attributes.`Run Name`'] button").first.click()
    page.wait_for_function("wanted => document.querySelectorAll('.ag-row a').length >= wanted", arg=before + runs)


def headers(page: "Page") -> list[str]:
    """The columns of a table of runs that are on the screen, from left to right."""
    return [str(name) for name in page.evaluate(_READ_HEADERS)]


def rows(page: "Page") -> list[dict[str, str]]:
    """The rows of a table of runs that are on the screen, by column."""
    return [dict(row) for row in page.evaluate(_READ_TABLE)]


def show_charts(page: "Page") -> None:
    """Turns from the table of runs to their charts, and waits for the first."""
    page.locator("label:has(input[name='runs-view-mode'][value='CHART'])").click()
    page.locator(".js-plotly-plot .scatterlayer path.js-line").first.wait_for(state="attached")


def chart(page: "Page", metric: str, lines: int) -> "Locator":
    """The chart of a metric, once it has so many lines."""
    card = page.get_by_test_id("experiment-view-compare-runs-card").filter(has=page.get_by_text(metric, exact=True))
    plot = card.locator(".js-plotly-plot").first
    plot.locator(".scatterlayer path.js-line").nth(lines - 1).wait_for(state="attached")
    return plot


def lines(plot: "Locator") -> list[dict[str, Any]]:
    """What a chart shows: of each line the run, and the points."""
    return list(plot.evaluate(_READ_LINES))


def open_comparison(page: "Page", address: str) -> "Locator":
    """Opens the comparison of runs, and waits for its parallel coordinates."""
    page.goto(address)
    plot = page.locator(".js-plotly-plot").filter(has=page.locator(".parcoords")).first
    plot.locator(".axis-title").first.wait_for()
    return plot


def coordinates(plot: "Locator") -> list[dict[str, Any]]:
    """The axes of parallel coordinates: label, the runs' values, and their names where they are not numbers."""
    return list(plot.evaluate(_READ_COORDINATES))


def choose(page: "Page", box: str, wanted: Sequence[str]) -> None:
    """Chooses what a comparison's plot shows.

    Args:
        page: of the comparison.
        box: label of the box, Parameters or Metrics.
        wanted: what is chosen, in the order of the axes.
    """
    select = page.locator(f"xpath=//div[normalize-space()='{box}:']/following-sibling::div[1]")
    while (remove := select.locator("[class$='selection-item-remove']")).count():
        remove.first.click()
    for name in wanted:
        select.locator("input").fill(name, force=True)
        page.locator("[class*='select-item-option-content']").get_by_text(name, exact=True).last.click()
    page.keyboard.press("Escape")


def colours(canvas: "Locator") -> int:
    """How many colours a canvas shows, to the first few."""
    from PIL import Image

    picture = Image.open(io.BytesIO(canvas.screenshot())).convert("RGB").quantize(16)
    return len(picture.getcolors() or [])
