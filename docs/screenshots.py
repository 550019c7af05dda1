"""Makes the pictures of the dashboard and of a comparison, from real runs, in a headless Chromium.

    python docs/screenshots.py [FOLDER]

needs playwright and chromium, and takes a quarter of an hour, for it trains 38 models first, on data that
are drawn or simulated. FOLDER keeps their store: where there is one in it already, only the pictures are made again.

| picture | what it shows |
| --- | --- |
| docs/images/runs.png | the runs of an experiment, one sweep of two opened |
| docs/images/sweep.png | a sweep's own page: the best run, and all of them in a table |
| docs/images/chart.png | learning curves of agents |
| docs/images/compare.png | a search over two hyperparameters, as parallel coordinates |
| docs/images/comparison.png | the intervals that `trilab compare` draws |
"""

import io
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "browser"), str(ROOT / "tests")]

import dashboard_pages as pages  # noqa: E402
from dashboard_store import Dashboard, Store, served, trilab  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = ROOT / "docs" / "images"
CLICKS, AGENT = "recsys/deepfm_synthetic", "rl/double_dqn_cartpole"
MODELS, SEARCH, DOUBLE = "models", "search", "double"
#: What is run, in this order.
SWEEPS = {
    SEARCH: [
        "hydra/sweeper=optuna", "hydra.sweeper.n_trials=20", f"experiment={CLICKS}",
        "optimizer.lr=tag(log,interval(1e-3,5e-2))", "model.network.dim=2,4,8,16",
        "model.network.dropout=interval(0,0.4)", "data.train_rows=100000", "trainer.max_epochs=2",
    ],
    MODELS: [
        f"experiment={CLICKS}", "model=recsys/deepfm,recsys/dcn_v2,recsys/wide_deep", "seed=1,2,3,4",
        "data.train_rows=200000",
    ],
    DOUBLE: [f"experiment={AGENT}", "model.double=true,false", "seed=1,2,3"],
}  # fmt: skip
#: Of a page, in pixels: a README shows it at half of its width, and the text can still be read.
SIZE = (1440, 840)
#: What is hidden from the pictures: the button of MLflow's assistant, and the ring around what was clicked last.
STYLE = """
button:has([style*="--ai-icon-gradient"]) { display: none !important; }
.ag-cell-focus { border-color: transparent !important; }
"""


def main() -> None:
    program = pages.chromium()
    if program is None:
        sys.exit(f"there is no browser: none of {', '.join(pages.CHROMIUM)} is on the PATH")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(sys.argv[1] if len(sys.argv) > 1 else temporary).absolute())
        if not (store.folder / "mlflow.db").exists():
            store.folder.mkdir(parents=True, exist_ok=True)
            for name, overrides in SWEEPS.items():
                trilab(store, store.folder, "train", "-m", f"sweep.name={name}", *overrides)
        trilab(store, store.folder, "compare", MODELS, "--output", "compared")
        keep(Image.open(store.folder / "compared" / "scores.png"), "comparison")
        with served(store) as dashboard, pages.browsing(program, *SIZE) as context:
            for take in (runs, sweep, chart, compare):
                page = context.new_page()
                take(page, dashboard, store)
                page.add_style_tag(content=STYLE)
                page.mouse.move(0, 0)
                page.wait_for_timeout(1000)  # what moves on the page comes to rest
                keep(Image.open(io.BytesIO(page.screenshot())), take.__name__)
                page.close()


def runs(page: "Page", dashboard: Dashboard, store: Store) -> None:
    """The runs of an experiment: one sweep opened, one closed."""
    _, own = store.sweep(CLICKS, MODELS)
    open_experiment(page, dashboard.pages[CLICKS])
    pages.open_sweep(page, MODELS, len(own))


def sweep(page: "Page", dashboard: Dashboard, store: Store) -> None:
    """The page of a sweep, with all of its description."""
    run, _ = store.sweep(CLICKS, MODELS)
    page.goto(pages.run_address(dashboard.address, run.info.experiment_id, run.info.run_id))
    page.get_by_test_id("show-comment-toggle").click()
    narrow(page)


def chart(page: "Page", dashboard: Dashboard, store: Store) -> None:
    """Learning curves of the runs of a sweep."""
    _, own = store.sweep(AGENT, DOUBLE)
    open_experiment(page, dashboard.pages[AGENT])
    pages.open_sweep(page, DOUBLE, len(own))
    pages.show_charts(page)
    # The list of the runs has room for their names, once its border is drawn to the right.
    border = page.locator(".react-resizable").first.bounding_box()
    assert border is not None
    x, y = border["x"] + border["width"], border["y"] + border["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 75, y, steps=10)
    page.mouse.up()
    pages.chart(page, "val/return_mean", len(own))


def compare(page: "Page", dashboard: Dashboard, store: Store) -> None:
    """A search as parallel coordinates."""
    run, own = store.sweep(CLICKS, SEARCH)
    ids = [one.info.run_id for one in own]
    plot = pages.open_comparison(page, pages.compare_address(dashboard.address, run.info.experiment_id, ids))
    pages.choose(page, "Metrics", ["train/loss", "test/auc"])
    plot.locator(".axis-title", has_text="test/auc").wait_for()
    narrow(page)


def open_experiment(page: "Page", address: str) -> None:
    """Opens the runs of an experiment, and puts away what is not about them."""
    pages.open_table(page, address)
    page.get_by_role("button", name="Hide banner").click()
    narrow(page)


def narrow(page: "Page") -> None:
    """Leaves of the bar at the side its icons."""
    page.get_by_role("button", name="Toggle sidebar").click()


def keep(picture: Image.Image, name: str) -> None:
    picture.convert("RGB").save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
