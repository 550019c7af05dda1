"""The study of devices: its cells, epochs in turns, rows of many machines, and the report made of them."""

import csv
import json
import sys
import time
from pathlib import Path

import pytest
import warm
import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from trilab.errors import ConfigError, UserError
from trilab.reports import device_plan, device_tables
from trilab.reports.device_plan import DeviceStudy, machine_name
from trilab.reports.device_runs import COLUMNS, collect, rows
from trilab.reports.device_study import read, report
from trilab.reports.device_windows import measure
from trilab.reports.launch import identify
from trilab.tracking.settings import Tracking
from trilab.tracking.store import connect

STUDY = {
    "name": "studies/devices",
    "report": "device",
    "baseline": "fp32",
    "accelerators": ["cpu"],
    "seeds": [1, 2],
    "windows": 5,
    "common": ["trainer.max_epochs=3"],
    "runs": [["experiment=vision/mnist_cnn"]],
}
README = "# How long?\n\n<!-- results -->\nof last week\n<!-- /results -->\n\nafter\n"


def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def write(tmp_path: Path, **changes: object) -> Path:
    folder = tmp_path / "devices"
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))
    (folder / "README.md").write_text(README)
    return folder


# The cells


def test_what_does_not_run_as_asked_is_unsupported_and_not_run(tmp_path: Path) -> None:
    study = read(write(tmp_path))
    fp32, half, bf16 = study.cells
    assert (fp32.accelerator, fp32.precision, fp32.unsupported) == ("cpu", "fp32", None)
    assert half.unsupported is not None
    assert half.unsupported.reason == "16-mixed runs as bf16-mixed on cpu"
    assert bf16.unsupported is None
    here = study.here()
    assert [run.overrides[-2:] for run in here.runs] == [
        ["accelerator=cpu", "precision=fp32"],
        ["accelerator=cpu", "precision=bf16-mixed"],
    ]
    assert here.name.startswith("studies/devices/")  # one store may serve several machines
    identify(here.overrides(here.runs[0], 1))  # the name is a value that Hydra reads


def test_an_accelerator_that_is_not_here_has_no_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trilab.runtime.available", lambda: ["mps", "cpu"])
    accelerators = [cell.accelerator for cell in read(write(tmp_path, accelerators=["cuda", "mps", "cpu"])).cells]
    assert accelerators == ["mps"] * 3 + ["cpu"] * 3
    with pytest.raises(UserError, match="this machine has none of cuda"):
        _ = read(write(tmp_path, accelerators=["cuda"])).cells


@pytest.mark.parametrize(
    ("here", "data"),
    [
        ({"MNIST", "FashionMNIST"}, "vision/mnist"),
        ({"FashionMNIST"}, "vision/fashion_mnist"),
        (set(), "vision/mnist"),  # which says what is missing, or downloads it
    ],
)
def test_other_data_take_the_place_of_those_that_are_not_here(
    tmp_path: Path, fake_data: Path, monkeypatch: pytest.MonkeyPatch, here: set[str], data: str
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name in here:
        (root / name).symlink_to(fake_data / name)
    monkeypatch.setenv("TRILAB_DATA_DIR", str(root))
    study = read(write(tmp_path, substitutes={"vision/mnist": "vision/fashion_mnist"}))
    assert {cell.data for cell in study.cells} == {data}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"accelerators": ["gpu"]}, "'gpu'. Did you mean 'cuda'?"),
        ({"precisions": ["fp32", "bf16"]}, "'bf16'. Did you mean 'bf16-mixed'?"),
        ({"precisions": ["bf16-mixed"]}, "baseline: fp32 is none of the precisions"),
        ({"windows": 4}, "windows: 4: expected a whole number >= 5"),
        ({"seeds": []}, "seeds: expected one at least"),
        ({"substitutes": ["vision/cifar10"]}, "is not a mapping"),
        ({"metrics": ["accuracy"]}, "no such key 'metrics'"),
    ],
)
def test_a_wrong_study_gets_one_line(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(write(tmp_path, **changes))
    assert said in str(raised.value)


def test_what_measures_time_runs_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="side by side would slow each other"):
        report(write(tmp_path), uri(tmp_path), jobs=2)
    assert {"accelerator", "precision", "seed"} <= set(read(write(tmp_path)).varied)


# Epochs in turns, with arms that only note when they were called

ARM = """
import json, sys
from pathlib import Path
log, overrides = Path(sys.argv[1]), sys.argv[2:]
what = dict(text.split("=", 1) for text in overrides)
precision, epochs = what["precision"], int(what["trainer.max_epochs"])
def answer(**content):
    print(json.dumps(content), flush=True)
answer(settings={"precision": EFFECTIVE, "torch": "9.9", "threads": "1"}, weights=WEIGHTS)
for epoch in range(epochs):
    if not sys.stdin.readline():
        break
    log.open("a").write(f"{precision} {epoch}\\n")
    if epoch == DIES:
        sys.exit("out of memory")
    seconds = (100 if epoch == 0 else epoch) * (2 if precision == "fp32" else 1)
    answer(seconds=seconds, **({"batches": "same"} if epoch == 0 else {}))
"""


@pytest.fixture
def study(empty_store: Path, tmp_path: Path) -> DeviceStudy:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return read(write(tmp_path))


def arm(tmp_path: Path, effective: str = "precision", weights: str = "'same'", dies: str = "-1") -> list[str]:
    text = ARM.replace("EFFECTIVE", effective).replace("WEIGHTS", weights).replace("DIES", dies)
    (tmp_path / "arm.py").write_text(text)
    return [sys.executable, str(tmp_path / "arm.py"), str(tmp_path / "log")]


def test_epochs_take_turns_after_a_first_one_of_each(study: DeviceStudy, tmp_path: Path) -> None:
    measure(study, uri(tmp_path), arm(tmp_path))
    assert (tmp_path / "log").read_text().split("\n") == [
        *("fp32 0", "bf16-mixed 0"),
        *("fp32 1", "bf16-mixed 1", "bf16-mixed 2", "fp32 2", "fp32 3"),
        *("bf16-mixed 3", "bf16-mixed 4", "fp32 4", "fp32 5", "bf16-mixed 5", ""),
    ]
    client = MlflowClient(uri(tmp_path))
    experiment = client.get_experiment_by_name(study.here().name)
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "perf/window_s/fp32")
    assert sorted((one.step, one.value) for one in history) == [(0, 2), (1, 4), (2, 6), (3, 8), (4, 10)]
    assert (run.info.status, run.data.tags["timing.torch"]) == ("FINISHED", "9.9")
    measure(study, uri(tmp_path), arm(tmp_path))  # what the store holds is not timed again
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert [child for child in warm.children() if "arm.py" in " ".join(child.cmdline())] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": "precision"}, "do not start from the same weights"),
        ({"effective": "'bf16-mixed'"}, "mnist_cnn mnist cpu fp32: ran as bf16-mixed"),
        ({"dies": "3"}, "its process ended before its time: out of memory"),
    ],
)
def test_what_is_no_comparison_is_refused(study: DeviceStudy, tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(UserError) as raised:
        measure(study, uri(tmp_path), arm(tmp_path, **changes))
    assert said in str(raised.value)
    time.sleep(0.1)
    assert [child for child in warm.children() if "arm.py" in " ".join(child.cmdline())] == []


# The rows and the report, of made-up runs


def train(
    study: DeviceStudy, tmp_path: Path, precision: str, seed: int, epochs: list[float], accuracy: float, **tags: str
) -> None:
    """Writes a run as `trilab train` would."""
    client, experiment = connect(Tracking(study.here().name, uri(tmp_path)))
    [cell] = [cell for cell in study.cells if cell.precision == precision]
    overrides = study.here().overrides(cell.run, seed)
    own = next(iter(identify(overrides)))
    given = {"trilab.config_hash": own, "precision.effective": precision, "device.name": "A chip", "git.commit": "abc"}
    given |= {name.replace("__", "."): value for name, value in tags.items()}
    run_id = client.create_run(experiment).info.run_id
    metrics = [Metric("perf/epoch_s", seconds, 0, 100 * step) for step, seconds in enumerate(epochs)]
    metrics += [Metric("test/accuracy", accuracy, 0, 0), Metric("perf/train_samples_per_s", 1000.0 * seed, 0, 0)]
    metrics += [Metric("perf/peak_memory_mb", 500.0, 0, 0)]
    params = [Param("seed", str(seed)), Param("data.batch_size", "128")]
    client.log_batch(run_id, metrics, params, [RunTag(name, value) for name, value in given.items()])
    client.log_text(run_id, "# python 3.11.9\n# Linux-6.1\ntorch==2.13.0+cpu\n", "environment.txt")
    client.set_terminated(run_id, "FINISHED")


@pytest.fixture
def measured(study: DeviceStudy, tmp_path: Path) -> DeviceStudy:
    train(study, tmp_path, "fp32", 1, [9.0, 5.0, 4.0], 0.98)
    train(study, tmp_path, "fp32", 2, [7.0, 6.0, 5.0], 0.99)
    train(study, tmp_path, "bf16-mixed", 1, [6.0, 3.0, 3.0], 0.97)
    measure(study, uri(tmp_path), arm(tmp_path))
    return study


def test_the_rows_by_hand(measured: DeviceStudy, tmp_path: Path) -> None:
    client = MlflowClient(uri(tmp_path))
    fp32, half, bf16 = rows(client, measured, collect(client, measured), "mine")
    assert (fp32["average_epoch_s"], fp32["first_epoch_s"], fp32["later_epoch_s"]) == ("6", "8", "5")
    assert (fp32["seeds"], fp32["epochs"], fp32["batch_size"]) == ("2", "3", "128")
    assert (fp32["accuracy"], fp32["accuracy_min"], fp32["accuracy_max"]) == ("0.9850", "0.9800", "0.9900")
    assert (fp32["images_per_s"], fp32["peak_memory_mb"]) == ("1500", "500")
    # The arms say 2, 4, 6, 8, 10 s in fp32 and half of it in bf16-mixed, in each turn.
    assert (fp32["window_s"], fp32["window_low_s"], fp32["window_high_s"], fp32["windows"]) == ("6", "4", "8", "5")
    assert (bf16["window_s"], bf16["speedup"], bf16["speedup_low"]) == ("3", "2", "2")
    assert fp32["speedup"] == ""
    assert (fp32["torch"], fp32["threads"]) == ("9.9", "1")
    assert half["unsupported"] == "16-mixed runs as bf16-mixed on cpu"
    assert not any(half[name] for name in ("window_s", "average_epoch_s", "accuracy", "speedup"))


def test_a_run_in_another_precision_never_fills_a_cell(study: DeviceStudy, tmp_path: Path) -> None:
    train(study, tmp_path, "fp32", 1, [1.0, 1.0, 1.0], 0.9, precision__effective="bf16-mixed")
    client = MlflowClient(uri(tmp_path))
    fp32 = rows(client, study, collect(client, study), "mine")[0]
    assert fp32["unsupported"] == "fp32 ran as bf16-mixed"
    assert fp32["average_epoch_s"] == ""


def row(machine: str, data: str, accelerator: str, precision: str, date: str, window: str = "1") -> dict[str, str]:
    given = {"machine": machine, "data": data, "accelerator": accelerator, "precision": precision, "date": date}
    return dict.fromkeys(COLUMNS, "") | given | {"window_s": window, "window_low_s": window, "window_high_s": window}


def test_rows_of_this_machine_give_way_and_others_stay() -> None:
    old = [
        row("laptop", "mnist", "mps", "fp32", "2026-01-01"),
        row("server", "mnist", "cpu", "fp32", "2026-01-02"),
        row("server", "mnist", "cpu", "bf16-mixed", "2026-01-02"),  # not measured again, but against the old fp32
        row("server", "cifar10", "cpu", "fp32", "2026-01-02"),
        row("server", "mnist", "cuda", "fp32", "2026-01-02"),
    ]
    new = [row("server", "mnist", "cpu", "fp32", "2026-02-02"), row("phone", "mnist", "cpu", "fp32", "2026-02-02")]
    kept = [(one["machine"], one["data"], one["accelerator"], one["date"]) for one in device_tables.merged(old, new)]
    assert kept == [
        ("laptop", "mnist", "mps", "2026-01-01"),
        ("server", "cifar10", "cpu", "2026-01-02"),
        ("server", "mnist", "cuda", "2026-01-02"),
        ("server", "mnist", "cpu", "2026-02-02"),
        ("phone", "mnist", "cpu", "2026-02-02"),
    ]


def test_the_report_keeps_the_rows_of_other_machines(measured: DeviceStudy, tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "results").mkdir()
    other = [row("laptop", "mnist", "mps", "fp32", "2026-01-01", "12.5")]
    (folder / "results" / "table.csv").write_text(device_tables.comma_separated(other))
    facts = {"last_run": "2026-01-01", "machines": {"laptop": {"last_run": "2026-01-01"}}}
    (folder / "results" / "machine.json").write_text(json.dumps(facts))
    written = report(folder, uri(tmp_path))
    names = {"table.md", "table.csv", "machine.json", "epochs.png", "README.md"}
    assert {path.name for path in written} == names
    assert all(path.is_file() for path in written)
    with (folder / "results" / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(one["machine"], one["precision"]) for one in table] == [
        ("laptop", "fp32"),
        *((machine_name(), precision) for precision in ("fp32", "16-mixed", "bf16-mixed")),
    ]
    assert table[0]["window_s"] == "12.5"
    readme = (folder / "README.md").read_text()
    assert "last week" not in readme
    assert readme.endswith("<!-- /results -->\n\nafter\n")
    lines = [line.split(" | ") for line in readme.splitlines()]
    [unsupported] = [line for line in lines if len(line) > 3 and line[3] == "16-mixed"]
    assert unsupported[4] == "unsupported"
    [faster] = [line for line in lines if len(line) > 3 and line[3] == "bf16-mixed"]
    assert "2 [2, 2]" in faster
    facts = json.loads((folder / "results" / "machine.json").read_text())
    assert set(facts["machines"]) == {"laptop", machine_name()}
    assert facts["last_run"] == facts["machines"][machine_name()]["last_run"]
    before = readme
    report(folder, uri(tmp_path))  # the same runs again change nothing
    assert (folder / "README.md").read_text() == before


def test_what_is_missing_is_said(study: DeviceStudy, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run with a test"):
        report(write(tmp_path), uri(tmp_path))
    with pytest.raises(ConfigError, match="There is no store"):
        report(write(tmp_path), f"sqlite:///{tmp_path}/other.db")
    folder = write(tmp_path)
    (folder / "results").mkdir()
    (folder / "results" / "table.csv").write_text("a,b\n1,2\n")
    train(study, tmp_path, "fp32", 1, [1.0], 0.9)
    with pytest.raises(ConfigError, match="not a table of devices"):
        report(folder, uri(tmp_path))


# Real arms and runs


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_study_measures_what_is_missing(workdir: Path) -> None:
    # Of bfloat16 no more than has to be: not every processor has instructions for it.
    small = ["trainer.limit_train_batches=3", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
    small += ["data.batch_size=16", "data.eval_batch_size=16", "accelerator.threads=1"]
    common = ["trainer.max_epochs=2", *small, f"paths.outputs={workdir}"]
    folder = write(workdir, common=common, seeds=[1])
    report(folder, uri(workdir), run=True)
    client = MlflowClient(uri(workdir))
    experiment = client.get_experiment_by_name(read(folder).here().name)
    assert len(client.search_runs([experiment.experiment_id])) == 2 + 1  # two precisions, and their epochs in turns
    report(folder, uri(workdir), run=True)
    assert len(client.search_runs([experiment.experiment_id])) == 2 + 1
    with (folder / "results" / "table.csv").open() as file:
        fp32, half, bf16 = csv.DictReader(file)
    assert all(float(one[name]) > 0 for one in (fp32, bf16) for name in ("window_s", "average_epoch_s", "images_per_s"))
    assert float(bf16["speedup_low"]) <= float(bf16["speedup"]) <= float(bf16["speedup_high"])
    assert half["unsupported"]
    assert (fp32["threads"], fp32["epochs"], fp32["windows"]) == ("1", "2", "5")


def test_digests_tell_weights_and_orders_apart() -> None:
    import torch

    from trilab.reports.device_epochs import digest

    labels = [torch.tensor([1, 2]), torch.tensor([3])]
    assert digest(labels) == digest([torch.tensor([1, 2, 3])])
    assert digest(labels) != digest(labels[::-1])
    assert digest([torch.zeros(2)]) != digest([torch.full((2,), -0.0)])


def test_the_machines_name_has_its_cores() -> None:
    assert device_plan.machine_name().split(", ")[1].endswith(" cores")
