"""The report of a study of precisions: made-up runs in a store of their own, and claims by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from trilab.errors import ConfigError, UserError
from trilab.numerics.speed_grid import Cell
from trilab.numerics.underflow import cast_shares
from trilab.reports import precision_claims, precision_grid, precision_tables
from trilab.reports.precision_plots import speed
from trilab.reports.precision_runs import celled, collect
from trilab.reports.precision_study import main, read, report
from trilab.timing import Quartiles, Unsupported

README = "# Question\n\n<!-- results -->\nof last week\n<!-- /results -->\n\nafter\n"
PRECISIONS = ("fp32", "bf16-mixed", "16-mixed")
STUDY = {
    "name": "studies/made_up",
    "baseline": "fp32",
    "common": [],
    "seeds": [0, 1, 2],
    "runs": [{"label": "cnn", "overrides": ["experiment=vision/mnist_cnn", f"precision={p}"]} for p in PRECISIONS],
}


class Store:
    """Writes runs as trilab would."""

    def __init__(self, folder: Path) -> None:
        self.client = MlflowClient(uri(folder))
        self.experiment = self.client.create_experiment("studies/made_up", (folder / "artifacts").as_uri())

    def run(self, asked: str, seed: int, value: float, ran: str = "", status: str = "FINISHED") -> None:
        run_id = str(self.client.create_run(self.experiment).info.run_id)
        tags = {"trilab.model": "vision/mnist_cnn", "study_label": "cnn", "device.name": "A chip", "git.commit": "abc"}
        tags |= {"precision.requested": asked, "precision.effective": ran or asked}
        params = {"seed": str(seed), "goal.metric": "accuracy", "goal.mode": "max"}
        values = {"test/accuracy": value, "perf/step_ms": 2.0 + seed, "memory/activations_mb": 4.0}
        self.client.log_batch(
            run_id,
            [Metric(name, own, 0, 0) for name, own in values.items()],
            [Param(name, own) for name, own in params.items()],
            [RunTag(name, own) for name, own in tags.items()],
        )
        self.client.log_text(run_id, "# python 3.11.9\n# Linux-6.1\ntorch==2.13.0+cpu\n", "environment.txt")
        self.client.set_terminated(run_id, status)


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return Store(tmp_path)


def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def write(tmp_path: Path, **changes: object) -> Path:
    folder = tmp_path / "made_up"
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))
    (folder / "README.md").write_text(README)
    return folder


@pytest.fixture
def _quick_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_claims, "_TRACE_STEPS", 20)
    monkeypatch.setattr(precision_claims, "_BATCH", 4)


# The runs


def test_the_table_by_hand(store: Store, tmp_path: Path) -> None:
    for seed in range(3):
        store.run("fp32", seed, 0.90 + 0.01 * seed)
        store.run("bf16-mixed", seed, 0.91 + 0.01 * seed)
        store.run("16-mixed", seed, 0.95, ran="bf16-mixed")
    study = read(write(tmp_path))
    cells = celled(collect(store.client, study), study)
    fp32, bf16, fp16 = precision_tables.results(cells, "fp32")
    assert (fp32["metric"], fp32["seeds"], fp32["verdict"]) == ("accuracy", "3", "")
    assert fp32["test, mean [95% CI]"].startswith("0.9100 [0.90")
    assert (fp32["step, ms, median"], fp32["activations, MiB"]) == ("3.00", "4.00")
    assert bf16["less fp32's, same seeds"] == "+0.01 [+0.01, +0.01]"  # in pairs nothing else differs
    assert bf16["verdict"] == "better by the interval, by 1 standard deviations between seeds"
    # It ran in another precision than it was asked to: no number of it is shown, here nor in the file.
    assert (fp16["test, mean [95% CI]"], fp16["verdict"]) == ("unsupported", "runs as bf16-mixed here")
    lines = list(csv.DictReader(precision_tables.comma_separated(cells).splitlines()))
    assert [line["ran"] for line in lines] == ["fp32"] * 3 + ["bf16-mixed"] * 3 + ["unsupported"]
    assert "0.95" not in precision_tables.comma_separated(cells)


def test_verdicts_in_words() -> None:
    base = np.array([0.5, 0.6, 0.7, 0.8])
    assert precision_tables.against(base, base, "max")[1] == "the same with every seed"
    assert precision_tables.against(base + np.array([0.1, -0.1, 0.1, -0.1]), base, "max")[1].startswith(
        "no difference seen"
    )
    assert precision_tables.against(base - 0.1, base, "max")[1].startswith("worse by the interval")
    assert precision_tables.against(base - 0.1, base, "min")[1].startswith("better by the interval")
    assert precision_tables.against(base[:1], base[:1], "min") == ("+0", "one seed: no interval")
    assert precision_tables.against(base[:0], base[:0], "min") == ("", "no seed in common")


def test_only_finished_runs_count_and_a_cell_without_any_says_so(store: Store, tmp_path: Path) -> None:
    store.run("fp32", 0, 0.1)
    store.run("fp32", 0, 0.2)
    store.run("bf16-mixed", 0, 0.3, status="FAILED")
    study = read(write(tmp_path))
    cells = celled(collect(store.client, study), study)
    assert [one.value for one in cells["cnn", "fp32"]] == [0.2]
    assert cells["cnn", "bf16-mixed"] == Unsupported("no finished run")
    with pytest.raises(UserError, match="no finished run"):
        collect(store.client, read(write(tmp_path, name="studies/other")))


# The report


@pytest.mark.usefixtures("_quick_claims")
def test_the_report_renews_results_and_readme(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for precision in PRECISIONS:
        for seed in range(2):
            store.run(precision, seed, 0.9 + 0.01 * seed)
    folder = write(tmp_path)
    assert main([str(folder), "--uri", uri(tmp_path)]) == 0
    names = {"table.md", "table.csv", "machine.json", "claims.png", "fields.png"}
    assert {path.name for path in (folder / "results").iterdir()} == names  # no grid without --run, so no plot of it
    readme = (folder / "README.md").read_text()
    assert "of last week" not in readme
    assert readme.endswith("after\n")
    assert "| cnn | 16-mixed | accuracy | 2 | 0.9050 [0.9000, 0.9100] | +0 [+0, +0] | the same with" in readme
    assert "float16 weights 1.0000; bfloat16 weights 1.0000; float16 gradients, fp32 master copy 0.9000" in readme
    assert "just above 2^-25 rounds up to it, 2^-25 becomes 0" in readme
    assert "skipped [10]; scale 65536, then 32768, from step 2011 on 65536" in readme
    assert "| mlp | bf16-mixed | 0.02 | 0.00 | 2.02 | 0.50 |" in readme
    assert json.loads((folder / "results" / "machine.json").read_text())["runs"] == 6
    assert len(capsys.readouterr().out.splitlines()) == len(names) + 1


def test_what_is_wrong_with_a_study_is_one_line(tmp_path: Path) -> None:
    for change, said in [
        ({"baseline": "float32"}, r"baseline: float32 is no precision\. Did you mean 'fp32'\?"),
        ({"runs": [["precision=fp32"]]}, "each needs a label"),
        ({"runs": [{"label": "a", "overrides": ["precision=bf16"]}]}, "Did you mean 'bf16-mixed'"),
        ({"windows": 3}, "windows: 3: expected a whole number >= 5"),
        ({"widths": [0]}, "widths: "),
        ({"seeds": []}, "seeds: expected one at least"),
        ({"width": [1]}, "no such key 'width'. Did you mean 'widths'?"),
        ({"metrics": ["auc"]}, "no such key 'metrics'"),
    ]:
        with pytest.raises(ConfigError, match=said.replace("?", r"\?") if "\\" not in said else said):
            report(write(tmp_path, **change), uri(tmp_path))


# The grid


def test_the_grid_is_kept_and_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        Cell(8, 4, "fp32", Quartiles(2.0, 1.9, 2.1), Quartiles(1.0, 1.0, 1.0), 20.0),
        Cell(8, 4, "bf16-mixed", Quartiles(4.0, 3.9, 4.1), Quartiles(0.5, 0.49, 0.51), 25.0),
        Cell(8, 4, "16-mixed", *[Unsupported("runs as bf16-mixed on cpu")] * 3),
    ]
    calls = []
    monkeypatch.setattr(precision_grid.Accelerator, "prepare", lambda self: {})
    monkeypatch.setattr(precision_grid, "measure", lambda *given: calls.append(given) or cells)
    study, path = read(write(tmp_path, widths=[8], batches=[4], windows=5)), tmp_path / precision_grid.NAME
    precision_grid.renew(study, path)
    precision_grid.renew(study, path)
    assert len(calls) == 1
    assert precision_grid.read(path)[0] == cells
    precision_grid.renew(read(write(tmp_path, widths=[8, 16], batches=[4], windows=5)), path)
    assert len(calls) == 2  # another question
    [row] = precision_grid.table(cells)
    assert row == {
        "MLP of width": "8",
        "batch": "4",
        "fp32 step, ms": "2 [1.9, 2.1]",
        "fp32 memory, MiB": "20",
        "bf16-mixed, times as fast": "0.5 [0.49, 0.51]",
        "bf16-mixed memory, MiB": "25",
        "16-mixed, times as fast": "unsupported",
        "16-mixed memory, MiB": "unsupported",
    }
    assert speed(cells, tmp_path / "speed.png")
    assert not speed(cells[:1], tmp_path / "none.png")
    assert precision_grid.read(tmp_path / "nothing.json") == ([], {})


@pytest.mark.slow
@pytest.mark.realdata
def test_gradients_of_a_real_training_are_too_small_for_float16(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRILAB_DATA_DIR", str(real_data))
    found = precision_claims._gradients(["experiment=vision/mnist_cnn", "seed=0"], 100)
    assert found is not None
    activations, _ = found
    shares = [cast_shares(activations, scale, torch.float16)[0] for scale in (1, 4096)]
    assert shares[0] > 0.1
    assert shares[1] < 0.01
