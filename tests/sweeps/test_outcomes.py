"""What became of runs: files, the best of them, their names, and what a watcher says."""

import itertools
import math
import random
from pathlib import Path

import pytest

from trilab.config.objective import Objectives
from trilab.sweeps.judge import scores
from trilab.sweeps.outcome import Outcome, best, latest, read_all, read_outcome, winners
from trilab.sweeps.place import Place, key_of
from trilab.sweeps.trial import Trial
from trilab.sweeps.watch import duration

BY_AUC = {"val/auc": "max"}


def outcome(number: int, scores: dict[str, float], objectives: dict[str, str] = BY_AUC, **changes: object) -> Outcome:
    own = Outcome(number, f"run{number}", f"hash{number}", [], "FINISHED", objectives=dict(objectives), scores=scores)
    for key, value in changes.items():
        setattr(own, key, value)
    return own


def test_an_outcome_is_read_as_it_was_written_and_half_a_file_is_none(tmp_path: Path) -> None:
    made = outcome(3, {"val/auc": math.inf}, metrics={"a": 1.5}, shown="test/auc 0.5", ended=12.5)
    made.write(tmp_path / "3")
    assert read_outcome(tmp_path / "3") == made
    assert read_outcome(tmp_path / "4") is None
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "outcome.json").write_text('{"number": 4, "na')
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "outcome.json").write_text('{"number": 5, "unknown": 1}')
    assert read_all(tmp_path) == [made]


def test_of_runs_that_compute_the_same_the_last_counts() -> None:
    first, second = outcome(0, {}, status="FAILED", ended=1.0), outcome(2, {}, hash="hash0", ended=2.0)
    other = outcome(1, {}, ended=3.0)
    assert latest([second, other, first]) == [other, second]


def test_the_best_is_chosen_by_its_mode_among_those_that_finished() -> None:
    runs = [
        outcome(0, {"val/auc": 0.7}),
        outcome(1, {"val/auc": 0.9}, status="FAILED"),
        outcome(2, {"val/auc": 0.95}, pruned=True),
        outcome(3, {"val/auc": math.nan}),
        outcome(4, {}),
        outcome(5, {"val/auc": 0.8}),
    ]
    assert best(runs) is runs[5]
    for run in runs:
        run.objectives = {"val/auc": "min"}
    assert best(runs) is runs[0]
    assert best([]) is None
    assert best([runs[3], runs[4]]) is None


def test_runs_of_different_tasks_have_no_best() -> None:
    assert winners([outcome(0, {"val/auc": 0.7}), outcome(1, {"val/loss": 1.0}, {"val/loss": "min"})]) == []


@pytest.mark.parametrize("seed", range(20))
def test_of_several_objectives_those_win_that_no_other_beats(seed: int) -> None:
    draw = random.Random(seed)
    modes = {"val/auc": "max", "perf/fit_s": "min"}
    runs = [outcome(n, {"val/auc": draw.randint(0, 5), "perf/fit_s": draw.randint(0, 5)}, modes) for n in range(8)]

    def beats(a: Outcome, b: Outcome) -> bool:
        better = a.scores["val/auc"] >= b.scores["val/auc"] and a.scores["perf/fit_s"] <= b.scores["perf/fit_s"]
        return better and a.scores != b.scores

    assert winners(runs) == [run for run in runs if not any(beats(other, run) for other in runs)]


def test_of_a_validation_the_best_counts_and_of_the_rest_the_last() -> None:
    histories = {"val/auc": [0.5, 0.9, math.nan, 0.7], "perf/epoch_s": [3.0, 1.0, 2.0]}
    last = {"val/auc": 0.7, "perf/epoch_s": 2.0, "test/auc": 0.6}
    modes = {"val/auc": "max", "perf/epoch_s": "min", "test/auc": "max", "val/none": "max"}
    assert scores(Objectives(modes), last, histories.__getitem__) == {
        "val/auc": 0.9,
        "perf/epoch_s": 2.0,
        "test/auc": 0.6,
    }
    assert scores(Objectives({"val/auc": "min"}), last, histories.__getitem__) == {"val/auc": 0.5}
    assert math.isnan(scores(Objectives(BY_AUC), {"val/auc": math.nan}, lambda _: [math.nan])["val/auc"])


def test_a_best_run_is_told_of_by_what_it_was_chosen_by_and_by_its_result() -> None:
    run = outcome(0, {"val/auc": 0.8123456}, metric="test/auc", result=0.7654321)
    assert run.words == "val/auc 0.81235, test/auc 0.76543"
    assert outcome(0, {"test/auc": 0.5}, {"test/auc": "max"}, metric="test/auc", result=0.5).words == "test/auc 0.5"


def test_a_run_is_named_by_what_is_swept_with_few_digits() -> None:
    place = Place("s", "id", ("optimizer.lr", "seed", "model", "x"))
    overrides = ["seed=123456789", "optimizer.lr=0.000123456789", "model=a b", "+x=1.5", "trainer.max_epochs=3"]
    assert place.values(overrides) == "seed=123456789 optimizer.lr=0.0001235 'model=a b' +x=1.5"
    assert key_of("+a.b@c=1=2") == "a.b"
    assert key_of("~a.b") == "a.b"


def test_a_place_reaches_the_run_whatever_stands_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    place = Place("a.b-c", "id", ("+x", "model/network@here"), quiet=True)
    value = OverridesParser.create().parse_override(place.as_override()).value()
    assert Place.here() is None
    monkeypatch.setenv("TRILAB_SWEEP", str(value))
    assert Place.here() == place


def test_a_trial_file_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    trial = Trial("sqlite:///x", "study", 3, {"kind": "median", "warmup": 1})
    trial.write(tmp_path)
    assert Trial.read(tmp_path) == trial
    assert (tmp_path / "trial.json").stat().st_mode & 0o077 == 0
    assert Trial.read(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h"), (36000, "10.0 h")]
)
def test_durations_are_said_roughly(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_every_pair_of_equal_points_stays_in_a_front() -> None:
    modes = {"a": "min", "b": "min"}
    runs = [outcome(n, {"a": a, "b": b}, modes) for n, (a, b) in enumerate(itertools.product((1, 1), (2, 2)))]
    assert winners(runs) == runs
