"""Which runs count, what tells them apart, and what a reader is warned of."""

from pathlib import Path

import numpy as np
import pytest
from made_up import TAGS, Store

from trilab.compare.columns import label, ordered, refined, resolve, varying
from trilab.compare.comparison import Comparison, Options, compare
from trilab.compare.find import select
from trilab.errors import ConfigError


@pytest.fixture
def store(workdir: Path) -> Store:
    return Store(workdir)


def compared(store: Store, *names: str, **options: object) -> Comparison:
    return compare(select(store.client, names, "the store"), Options(**options))  # type: ignore[arg-type]


def counts(found: Comparison) -> dict[str, int]:
    return {row.group.name: len(row.scores) for task in found.tasks for row in task.rows}


def test_only_finished_runs_count(store: Store) -> None:
    sweep = store.sweep("mine", {"precision": "bf16-mixed, fp32", "seed": "0, 1"})
    under = {"trilab.sweep": "mine", "mlflow.parentRunId": sweep}
    for seed in (0, 1):
        for precision in ("fp32", "bf16-mixed"):
            store.run(seed, 0.9, precision, tags=under)
    for status in ("RUNNING", "FAILED", "FAILED", "KILLED"):
        store.run(7, 0.1, tags=under, status=status)
    store.run(8, None, tags=under)
    store.run(8, None, tags={**under, "trilab.pruned": "after 2 validations"}, metrics={"val/accuracy": 0.1})
    store.run(9, 0.1)  # of another sweep, or none
    store.run(10, 0.1, tags={"trilab.sweep": "mine", "mlflow.parentRunId": "0" * 32})  # of another of that name
    found = compared(store, "mine")
    assert counts(found) == {"bf16-mixed": 2, "fp32": 2}  # in the sweep's order
    assert found.by == ["precision"]
    assert found.baseline == {"precision": "fp32"}
    left_out = found.left_out.split(", ")
    assert sorted(left_out) == ["1 killed", "1 pruned", "1 running", "1 without test/accuracy", "2 failed"]
    assert counts(compared(store, sweep)) == counts(found)  # by the id of its own run


def test_of_a_batch_of_seeds_the_agents_count(store: Store) -> None:
    """The batch's own run holds their mean; its time is one measurement, whatever their number."""
    agents = {"trilab.model": "rl/dqn", "trilab.data": "rl/cartpole"}
    for name, fit_s in (("rl/dqn", 30.0), ("rl/rainbow", 60.0)):
        batch = store.run(
            0, 50.0, fit_s=fit_s, params={"trainer.seeds": "[0, 1, 2, 3]"}, tags={**agents, "trilab.model": name}
        )
        for seed in range(4):
            nested = {"trilab.seed_batch": batch, "mlflow.parentRunId": batch, **agents, "trilab.model": name}
            store.run(seed, 100.0 * seed, fit_s=None, tags=nested)
    found = compared(store, "made/up")
    [task] = found.tasks
    assert counts(found) == {"dqn": 4, "rainbow": 4}
    assert task.agents
    assert task.rows[0].middle is not None
    assert float(task.rows[0].middle.value) == pytest.approx(150)  # of 0, 100, 200, 300 the middle two
    assert [list(row.group.of("perf/fit_s").values()) for row in task.rows] == [[30.0], [60.0]]
    against = task.rows[1].found
    assert against is not None
    assert against.time is not None
    assert float(against.time.value) == pytest.approx(0.5)
    assert not np.isfinite(against.time.high)
    assert any("of 4 agents trained at once" in note for note in found.notes)
    assert counts(compared(store, batch)) == {"rainbow": 4}


def test_which_run_a_run_begins_from_is_no_setting_but_that_it_does_is(store: Store) -> None:
    for seed in range(5):
        for rate, gain in (("0.001", 0.0), ("0.002", 0.01)):
            for begins, more in (("null", 0.0), (f"{store.count:032x}", 0.1)):
                params = {"optimizer.lr": rate, "model.pretrained_gmf": begins}
                store.run(seed, 0.5 + seed / 100 + gain + more, params=params)
    found = compared(store, "made/up", by=["pretrained_gmf", "lr"], baseline="lr=0.001")
    assert counts(found) == {
        f"pretrained_gmf={begins} lr={rate}": 5 for begins in ("null", "a run") for rate in ("0.001", "0.002")
    }
    against = [row.found for row in found.tasks[0].rows if row.found]
    assert [each.paired for each in against] == [True, True]
    assert [float(each.difference.value) for each in against] == pytest.approx([0.01, 0.01])


def test_a_run_made_again_counts_once(store: Store) -> None:
    store.run(0, 0.1, start_s=1)
    store.run(0, 0.9, start_s=2)
    store.run(1, 0.8, start_s=3)
    found = compared(store, "made/up")
    assert sorted(found.tasks[0].rows[0].scores) == [0.8, 0.9]
    assert found.left_out == "1 repeated later"
    assert counts(found) == {"mnist_cnn": 2}


def test_what_differs_is_what_the_groups_are_told_apart_by(store: Store) -> None:
    for seed in (0, 1):
        for lr in ("0.1", "0.01", "0.001"):
            store.run(seed, 0.9, params={"optimizer.lr": lr, "model.seed": str(seed), "tracking.uri": lr})
    found = compared(store, "made/up")
    assert found.by == ["optimizer.lr"]
    assert list(counts(found)) == ["lr=0.001", "lr=0.01", "lr=0.1"]  # by number, not as they were run
    assert counts(compared(store, "made/up", by=["lr"])) == counts(found)


def test_settings_that_are_not_compared_make_pairs(store: Store) -> None:
    """By precision over two models: a pair has the same model and the same seed, and its difference is exact."""
    for model, level in (("vision/mlp", 0.5), ("vision/mnist_cnn", 0.9)):
        for seed in range(2):
            for precision, loss in (("fp32", 0.0), ("bf16-mixed", 0.01)):
                store.run(seed, level + seed / 100 - loss, precision, tags={"trilab.model": model})
    found = compared(store, "made/up", by=["precision"])
    assert counts(found) == {"fp32": 4, "bf16-mixed": 4}
    against = found.tasks[0].rows[1].found
    assert against is not None
    assert against.paired
    assert against.difference.high - against.difference.low < 1e-9
    assert any("differ in model too" in note for note in found.notes)


def test_every_group_has_the_baseline_of_its_own_kind(store: Store) -> None:
    for model, level in (("vision/mlp", 0.5), ("vision/mnist_cnn", 0.9)):
        for seed in range(3):
            for precision, loss in (("fp32", 0.0), ("bf16-mixed", 0.1)):
                store.run(seed, level - loss, precision, tags={"trilab.model": model})
    rows = compared(store, "made/up").tasks[0].rows
    found = {row.group.name: row.found.baseline for row in rows if row.found}
    assert found == {"mlp bf16-mixed": "mlp fp32", "mnist_cnn bf16-mixed": "mnist_cnn fp32"}
    all_to_one = compared(store, "made/up", baseline="model=mlp,precision=fp32").tasks[0].rows
    assert {row.found.baseline for row in all_to_one if row.found} == {"mlp fp32"}
    assert len([row for row in all_to_one if row.found]) == 3
    by_model = compared(store, "made/up", baseline="mlp").tasks[0].rows
    assert {row.group.name: row.found.baseline for row in by_model if row.found} == {
        "mnist_cnn fp32": "mlp fp32",
        "mnist_cnn bf16-mixed": "mlp bf16-mixed",
    }


def test_runs_of_different_tasks(store: Store) -> None:
    for seed in range(3):
        store.run(seed, 0.9, "fp32")
        store.run(seed, 0.8, "bf16-mixed")
        other = {"trilab.data": "vision/cifar10", "trilab.model": "vision/cifar_cnn"}
        store.run(seed, 0.6, "fp32", tags=other)
        store.run(seed, 0.7, "bf16-mixed", tags=other)
    with pytest.raises(ConfigError, match=r"different tasks .*mnist \(accuracy, 6 runs\).*--by data,precision"):
        compared(store, "made/up", by=["precision"])
    with pytest.raises(ConfigError, match="different tasks"):
        compared(store, "made/up")
    found = compared(store, "made/up", by=["data", "precision"])
    assert [task.data for task in found.tasks] == ["vision/mnist", "vision/cifar10"]
    verdicts = found.verdicts()
    assert len(verdicts) == 2
    assert verdicts[0].startswith("mnist: bf16-mixed is")
    assert "worse by 0.1" in verdicts[0]
    assert "better by 0.1" in verdicts[1]


def test_a_sweep_over_experiments_gets_a_table_for_each_task(store: Store) -> None:
    sweep = store.sweep("fields", {"experiment": "vision/mnist_cnn, recsys/mf", "precision": "fp32, bf16-mixed"})
    under = {"trilab.sweep": "fields", "mlflow.parentRunId": sweep}
    mf = {"trilab.data": "recsys/ml", "trilab.model": "recsys/mf", "trilab.experiment": "recsys/mf"}
    for precision in ("fp32", "bf16-mixed"):
        store.run(0, 0.9, precision, tags=under)
        store.run(
            0,
            None,
            precision,
            params={"goal.metric": "loss", "goal.mode": "min"},
            tags={**under, **mf},
            metrics={"test/loss": 0.4},
        )
    found = compared(store, "fields")
    assert found.by == ["data", "precision"]
    assert [(task.metric, task.mode) for task in found.tasks] == [("test/accuracy", "max"), ("test/loss", "min")]
    assert [[row.group.name for row in task.rows] for task in found.tasks] == [["fp32", "bf16-mixed"]] * 2


def test_what_makes_figures_not_comparable_is_said(store: Store) -> None:
    store.run(0, 0.9, "fp32")
    store.run(
        0, 0.9, "16-mixed", tags={"precision.effective": "bf16-mixed", "device.name": "Another", "git.commit": "d"}
    )
    store.run(1, float("nan"), "16-mixed", tags={"git.dirty": "true", "runtime.threads": "2"})
    store.run(1, 0.9, "fp32", params={"optimizer.lr": "7"}, tags={"runtime.threads": "1"})
    said = "\n".join(compared(store, "made/up", by=["precision"]).notes)
    for expected in (
        "1 runs asked for 16-mixed and ran as bf16-mixed on Another",
        "Mixed hardware: A chip (3 runs), Another (1 runs)",
        "2 commits",
        "1 runs were made with code that was not committed",
        "different numbers of threads: 1, 2",
        "16-mixed: 1 of 2 runs have no finite test/accuracy",
        "differ in optimizer.lr, device.name too",
    ):
        assert expected in said


def test_runs_side_by_side_slow_each_other_down(store: Store) -> None:
    for seed, start in ((0, 0.0), (1, 10.0), (2, 15.0)):  # ten seconds each
        store.run(seed, 0.9, tags={"process.host": "here"}, start_s=1000 + start)
    store.run(3, 0.9, tags={"process.host": "there"}, start_s=1015)
    assert [note for note in compared(store, "made/up").notes if note.startswith("1 runs were started while another")]


def test_groups_that_differ_in_more_than_their_names_say_so(store: Store) -> None:
    store.run(0, 0.9, "fp32", params={"data.batch_size": "64", "precision.init_scale": "1"})
    store.run(0, 0.9, "bf16-mixed", params={"data.batch_size": "128"})
    found = compared(store, "made/up")
    assert found.by == ["precision"]
    assert "The groups differ in more than their names say: data.batch_size." in found.notes


def test_columns_by_any_name(store: Store) -> None:
    store.run(0, 0.9, params={"model.network.factors": "8", "optimizer.lr": "1", "model.lr": "1"})
    store.run(0, 0.9, params={"model.network.factors": "16", "optimizer.lr": "2", "model.lr": "2"})
    samples = select(store.client, ["made/up"], "").samples
    assert resolve("factors", samples) == "model.network.factors"
    assert resolve("device.name", samples) == "device.name"
    with pytest.raises(ConfigError, match=r"may be any of model\.lr, optimizer\.lr"):
        resolve("lr", samples)
    with pytest.raises(ConfigError, match=r"Did you mean 'precision'\? The runs differ in: model\.lr, "):
        resolve("precison", samples)
    assert varying(samples) == ["model.lr", "model.network.factors", "optimizer.lr"]
    assert refined(["optimizer.lr"], samples) == ["optimizer.lr"]
    assert ordered(samples, "model.network.factors", {}) == ["8", "16"]
    assert label(["model", "optimizer.lr"], ["rl/dqn", "0.1"]) == "dqn lr=0.1"


def test_a_metric_by_its_last_part(store: Store) -> None:
    store.run(0, 0.9, metrics={"val/loss": 0.3, "train/loss": 0.1})
    store.run(1, 0.8, metrics={"val/loss": 0.2, "train/loss": 0.1})
    for asked, metric, mode in (
        ("accuracy", "test/accuracy", "max"),
        ("loss", "val/loss", "min"),
        ("fit_s", "perf/fit_s", "min"),
        ("train_samples_per_s", "perf/train_samples_per_s", "max"),
    ):
        [task] = compared(store, "made/up", metric=asked).tasks
        assert (task.metric, task.mode) == (metric, mode)


def test_without_a_test_validation_counts(store: Store) -> None:
    store.run(0, None, metrics={"val/accuracy": 0.7})
    assert compared(store, "made/up").tasks[0].metric == "val/accuracy"


def test_evaluations_of_a_run_are_no_further_runs(store: Store) -> None:
    run = store.run(0, 0.9)
    tested = store.run(0, 0.8, tags={"trilab.source_run": run})
    assert compared(store, "made/up").tasks[0].rows[0].scores.tolist() == [0.9]
    assert compared(store, tested).tasks[0].rows[0].scores.tolist() == [0.8]  # unless it is asked for


def test_many_groups_of_one_seed_get_one_line(store: Store) -> None:
    for lr, score in (("0.1", 0.5), ("0.2", 0.7), ("0.3", 0.6)):
        store.run(1, score, params={"optimizer.lr": lr})
    [verdict] = compared(store, "made/up").verdicts()
    assert verdict == (
        "too few seeds to tell: 1 in each group, 3 are the fewest. The highest test/accuracy so far: lr=0.2, 0.7"
    )


def test_the_tags_of_the_store_of_these_tests_are_those_that_trilab_writes() -> None:
    """So that a tag renamed in train.py fails here, and not in a user's comparison."""
    source = "".join(
        path.read_text()
        for path in (Path(__file__).parents[2] / "src/trilab").rglob("*.py")
        if "compare" not in path.parts
    )
    for tag in (*TAGS, "trilab.seed_batch", "trilab.kind", "trilab.sweep", "precision.effective", "process.host"):
        assert f'"{tag}"' in source


def test_memory_of_runs_in_one_process_does_not_compare(store: Store) -> None:
    for seed, pid in ((0, "7"), (1, "8")):
        store.run(seed, 0.9, tags={"process.host": "here", "process.pid": pid})
    assert not [note for note in compared(store, "made/up").notes if "one process" in note]
    store.run(2, 0.9, tags={"process.host": "here", "process.pid": "8"})
    assert [
        note for note in compared(store, "made/up").notes if note.startswith("Several runs were made by one process")
    ]


def test_a_precision_that_did_not_run_is_not_named_alone(store: Store) -> None:
    for seed in range(3):
        store.run(seed, 0.9, "fp32")
        store.run(seed, 0.9, "16-mixed", tags={"precision.effective": "bf16-mixed"})
    found = compared(store, "made/up")
    assert list(counts(found)) == ["fp32", "16-mixed (ran as bf16-mixed)"]
    assert found.verdicts()[0].startswith("16-mixed (ran as bf16-mixed) is ")


def test_the_same_run_on_another_machine_is_no_repetition(store: Store) -> None:
    for device in ("A chip", "Another"):
        for seed in range(2):
            store.run(seed, 0.9, tags={"device.name": device})
    found = compared(store, "made/up")
    assert counts(found) == {"mnist_cnn": 4}
    assert not found.left_out
    assert any(note.startswith("Mixed hardware") for note in found.notes)
