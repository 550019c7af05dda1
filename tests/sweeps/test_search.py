"""Searches by Optuna: what the study holds is what MLflow holds, and is gone on with."""

import itertools
import math
import re
import signal
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from test_lifecycle import start, wait_for
from test_sweep_runs import RECSYS, family, history
from test_train import trilab

from trilab.config.space import space_of
from trilab.errors import ConfigError
from trilab.sweeps.distributions import distributions_of, text_of, value_of
from trilab.sweeps.samplers import make_pruner, make_sampler
from trilab.sweeps.study import check_space, interrupted, known, open_study, report, storage_uri, waiting
from trilab.sweeps.trial import Trial

Runs = Callable[[], list[Run]]
LR = "optimizer.lr=tag(log, interval(1e-4,1e-1))"
States = optuna.trial.TrialState


def study_of(workdir: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{workdir / 'optuna.db'}")


def search(*overrides: str, n_trials: int) -> int:
    return trilab("train", "-m", *RECSYS, "hydra/sweeper=optuna", f"hydra.sweeper.n_trials={n_trials}", *overrides)


def test_a_study_is_told_what_mlflow_holds_and_goes_on_to_its_number_of_trials(
    runs: Runs, workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space = [LR, "data.batch_size=range(32,129,32)", "sweep.name=s", "hydra.sweeper.startup_trials=2"]
    for n_trials in (2, 3, 3):
        assert search(*space, n_trials=n_trials) == 0
    parent, children = family(runs())
    trials = study_of(workdir, "s").trials
    assert [trial.state for trial in trials] == [States.COMPLETE] * 3
    assert study_of(workdir, "s").direction.name == "MAXIMIZE"
    for run, trial in zip(children, trials, strict=True):
        assert float(run.data.params["optimizer.lr"]) == trial.params["optimizer.lr"]
        assert int(run.data.params["data.batch_size"]) == trial.params["data.batch_size"]
        assert trial.params["data.batch_size"] in (32, 64, 96, 128)
        assert trial.value == pytest.approx(max(history(run, "val/auc")))
    assert parent.data.tags["trilab.sweep_runs"] == "3"
    assert parent.data.metrics["best/val/auc"] == pytest.approx(study_of(workdir, "s").best_value)
    shown = capfd.readouterr()
    assert len(re.findall(r"^\[3/3\] ", shown.err, re.MULTILINE)) == 1
    assert "3 of 3 runs finished, 0 failed" in shown.out


def test_a_search_draws_the_same_whether_it_was_interrupted_or_not(runs: Runs, workdir: Path) -> None:
    for name, parts in (("once", (3,)), ("twice", (1, 3))):
        for n_trials in parts:
            assert search(LR, f"sweep.name={name}", "hydra.sweeper.startup_trials=1", n_trials=n_trials) == 0
    once, twice = ([trial.params for trial in study_of(workdir, name).trials] for name in ("once", "twice"))
    assert once == twice
    assert len({trial["optimizer.lr"] for trial in once}) == 3


def test_several_objectives_are_several_directions(runs: Runs, workdir: Path) -> None:
    assert search(LR, "sweep.metric=[val/auc,perf/fit_s]", "sweep.name=s", n_trials=2) == 0
    study = study_of(workdir, "s")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["val/auc", "perf/fit_s"]
    parent, children = family(runs())
    for run, trial in zip(children, study.trials, strict=True):
        assert trial.values == pytest.approx([max(history(run, "val/auc")), run.data.metrics["perf/fit_s"]])
    assert {children[trial.number].info.run_id for trial in study.best_trials} == set(
        parent.data.tags["trilab.best_run"].split()
    )


def test_a_grid_is_searched_once(runs: Runs, workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grid = ["hydra.sweeper.sampler=grid", "seed=1,2", "optimizer.lr=0.001,0.01", "sweep.name=s"]
    assert search(*grid, n_trials=3) == 0
    assert search(*grid, n_trials=9) == 0
    _, children = family(runs())
    found = [(run.data.params["seed"], float(run.data.params["optimizer.lr"])) for run in children]
    assert found == list(itertools.product("12", (0.001, 0.01)))
    assert "hydra.sweeper.n_trials=9: every combination has been run." in capfd.readouterr().err


def test_what_is_asked_for_twice_runs_once(runs: Runs, workdir: Path) -> None:
    assert search("seed=1,2", "hydra.sweeper.sampler=random", "sweep.name=s", n_trials=5) == 0
    trials = study_of(workdir, "s").trials
    parent, children = family(runs())
    assert [trial.state for trial in trials] == [States.COMPLETE] * 5
    reached = {run.data.params["seed"]: max(history(run, "val/auc")) for run in children}
    assert {trial.params["seed"] for trial in trials} == set(reached)
    assert len(children) == len(reached)
    assert [trial.value for trial in trials] == [pytest.approx(reached[trial.params["seed"]]) for trial in trials]
    assert parent.data.tags["trilab.sweep_runs"] == str(len(children))


def test_cma_es_varies_numbers(runs: Runs, workdir: Path) -> None:
    pytest.importorskip("cmaes")
    space = [LR, "data.batch_size=int(interval(32,128))", "hydra.sweeper.sampler=cmaes", "sweep.name=s"]
    assert search(*space, "hydra.sweeper.startup_trials=1", n_trials=3) == 0
    trials = study_of(workdir, "s").trials
    assert [trial.state for trial in trials] == [States.COMPLETE] * 3
    assert any(key.startswith("cma:") for trial in trials for key in trial.system_attrs)


def test_a_run_that_falls_behind_is_pruned_and_says_so(
    runs: Runs, workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pruning = ["hydra.sweeper.pruner=median", "hydra.sweeper.pruner_startup_trials=1", "sweep.name=s"]
    grid = ["hydra.sweeper.sampler=grid", "optimizer.lr=0.03,1e-12", "trainer.max_epochs=4"]
    assert search(*pruning, *grid, "trainer.limit_train_batches=30", "trainer.limit_val_batches=null", n_trials=2) == 0
    parent, [good, bad] = family(runs())
    assert {run.info.status for run in (parent, good, bad)} == {"FINISHED"}
    assert "trilab.pruned" not in good.data.tags
    assert re.fullmatch(r"val/auc 0\.\d+ at validation 1", bad.data.tags["trilab.pruned"])
    assert (len(history(good, "val/auc")), len(history(bad, "val/auc"))) == (4, 1)
    assert "test/auc" in good.data.metrics
    assert "test/auc" not in bad.data.metrics
    first, second = study_of(workdir, "s").trials
    assert (first.state, second.state) == (States.COMPLETE, States.PRUNED)
    assert list(second.intermediate_values.values()) == pytest.approx(history(bad, "val/auc"))
    assert parent.data.tags["trilab.best"] == "optimizer.lr=0.03"
    shown = capfd.readouterr()
    assert "[2/2] optimizer.lr=1e-12: pruned, val/auc" in shown.err
    assert "2 of 2 runs finished, 1 of them pruned, 0 failed" in shown.out
    # A pruned run is another configuration than one that is trained to its end.
    assert good.data.params["callbacks.pruning.monitor"] == "val/auc"
    assert search(*pruning, *grid, "trainer.limit_train_batches=30", "trainer.limit_val_batches=null", n_trials=2) == 0
    assert len(family(runs())[1]) == 2


def test_a_run_with_a_pruner_that_is_in_no_search_trains_to_its_end(runs: Runs) -> None:
    node = "+callbacks.pruning={_target_:trilab.callbacks.pruning.Pruning,monitor:val/auc}"
    assert trilab("train", *RECSYS, node, "trainer.max_epochs=2") == 0
    [run] = runs()
    assert len(history(run, "val/auc")) == 2


def test_a_metric_that_is_never_logged_is_an_error_after_the_first_run(
    runs: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    assert search(LR, "sweep.metric=val/acu", "sweep.mode=max", n_trials=3) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("trilab: sweep.metric=val/acu: run optimizer.lr=")
    assert "has logged no such metric. Did you mean 'val/auc'? Logged: " in line
    parent, children = family(runs())
    assert len(children) == 1
    assert parent.info.status == "FAILED"


def test_a_failed_trial_is_made_again(runs: Runs, workdir: Path, fake_data: Path) -> None:
    small = ["experiment=vision/mnist_cnn", "data.batch_size=8", "data.download=false", *RECSYS[1:4]]
    small += ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", LR, "sweep.name=s", "tracking.system_metrics=false"]
    assert trilab("train", "-m", *small, "paths.data=nowhere") == 1
    assert trilab("train", "-m", *small, f"paths.data={fake_data}") == 0
    failed, made = study_of(workdir, "s").trials
    assert (failed.state, made.state) == (States.FAIL, States.COMPLETE)
    assert failed.params == made.params
    _, children = family(runs())
    assert [run.info.status for run in children] == ["FAILED", "FINISHED"]


def test_what_a_study_cannot_go_on_with_is_one_line(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    assert search(LR, "sweep.name=s", n_trials=1) == 0
    for overrides, said in (
        ([LR, "seed=1,2"], "seed is varied now alone."),
        (["optimizer.lr=0.1,0.2"], "optimizer.lr was drawn from 0.0001 to 0.1, by its logarithm there, which Optuna"),
        ([LR, "sweep.metric=val/logloss"], "that study is of val/auc, and sweep.metric is now val/logloss."),
    ):
        capfd.readouterr()
        assert search(*overrides, "sweep.name=s", n_trials=2) == 2
        assert said in capfd.readouterr().err.splitlines()[-1]
    [parent] = [run for run in runs() if run.data.tags.get("trilab.kind") == "sweep"]
    MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db").delete_run(parent.info.run_id)
    assert search(LR, "sweep.name=s", n_trials=2) == 2
    assert "the store of MLflow has no sweep of that name" in capfd.readouterr().err.splitlines()[-1]
    assert search(LR, "sweep.name=s", "hydra.sweeper.storage=nonsense://x", n_trials=2) == 1
    assert "Cannot use Optuna's store nonsense://x" in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_after_kill_9_nothing_is_lost_and_nothing_run_twice(workdir: Path, runs: Runs) -> None:
    arguments = ["-m", *RECSYS, "hydra/sweeper=optuna", LR, "sweep.name=s", "hydra.sweeper.n_trials=5"]
    arguments += ["trainer.max_epochs=40", "trainer.limit_train_batches=30", "tracking.flush_s=0.2"]

    def state() -> tuple[int, int]:
        children = [run for run in runs() if run.data.tags.get("trilab.kind") != "sweep"]
        begun = [run for run in children if run.info.status == "RUNNING" and "val/auc" in run.data.metrics]
        return sum(run.info.status == "FINISHED" for run in children), len(begun)

    process = start(workdir, *arguments)
    wait_for(lambda: (state()[0] >= 2 and state()[1] == 1) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    parent, before = family(runs())
    assert parent.info.status == "RUNNING"
    done = [run for run in before if run.info.status == "FINISHED"]
    points = {run.info.run_id: history(run, "val/auc") for run in done}
    process = start(workdir, *arguments)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output

    parent, children = family(runs())
    assert parent.info.status == "FINISHED"
    finished = [run for run in children if run.info.status == "FINISHED"]
    assert len(finished) == len({run.data.tags["trilab.config_hash"] for run in finished}) == 5
    assert [run.info.run_id for run in finished[: len(done)]] == [run.info.run_id for run in done]
    assert {run.info.run_id: history(run, "val/auc") for run in done} == points
    [killed] = [run for run in children if run.info.status == "KILLED"]
    again = [run for run in finished if run.data.params["optimizer.lr"] == killed.data.params["optimizer.lr"]]
    assert len(again) == 1
    trials = study_of(workdir, "s").trials
    complete = [trial for trial in trials if trial.state is States.COMPLETE]
    assert len(complete) == 5
    assert {trial.params["optimizer.lr"] for trial in complete} == {
        float(run.data.params["optimizer.lr"]) for run in finished
    }
    assert [trial.state for trial in trials if trial not in complete] == [States.FAIL]


# The parts, without runs.


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return open_study(f"sqlite:///{tmp_path / 'optuna.db'}", "s", {"val/auc": "max"}, is_new=True)


SPACE = space_of([LR, "seed=range(1,10,3)", "data.rate=range(0.1,0.45,0.1)", "model=a,b", "n=int(interval(1,8))"])


def test_every_value_is_written_as_a_grid_writes_it(study: optuna.Study) -> None:
    dimensions = SPACE.dimensions
    for number in range(40):
        study.sampler = make_sampler("tpe", number, 10, in_parallel=False)
        trial = study.ask(fixed_distributions=distributions_of(dimensions))
        texts = {key: text_of(dimensions[key], value) for key, value in trial.params.items()}
        for key in ("seed", "data.rate", "model"):
            assert texts[key] in dimensions[key].texts  # type: ignore[union-attr]
        assert 1e-4 <= float(texts["optimizer.lr"]) <= 1e-1
        assert texts["n"] in "12345678"
        for key, text in texts.items():
            assert value_of(dimensions[key], text) == pytest.approx(trial.params[key])
        study.tell(trial, -math.inf if number == 3 else 0.1 * number)
    drawn = {trial.params["data.rate"] for trial in study.trials}
    assert len(drawn) == 4  # every value of the range


def test_what_was_interrupted_is_tried_once_more_and_only_once(study: optuna.Study) -> None:
    space = distributions_of({"a": SPACE.dimensions["seed"]})
    done, failed, lost = (study.ask(fixed_distributions=space) for _ in range(3))
    study.tell(done, 1.0)
    study.tell(failed, state=States.FAIL)
    expected = {value for trial in (failed, lost) for value in trial.params.values()}
    for _ in range(2):  # killed again before any of it ran
        interrupted(study)
        assert {trial.system_attrs["fixed_params"]["a"] for trial in waiting(study)} == expected
        assert len(waiting(study)) == len(expected)
    again = study.ask(fixed_distributions=space)
    assert again.params["a"] in expected
    assert len(known(study, {"a": SPACE.dimensions["seed"]})) == len({*expected, done.params["a"]})


def test_a_pruner_decides_in_any_process_by_what_the_study_holds(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = open_study(uri, "s", {"val/auc": "max"}, is_new=True)
    space = distributions_of({"a": SPACE.dimensions["n"]})
    pruner = {"kind": "median", "startup_trials": 2, "warmup": 2, "reduction": 4}
    for value in (0.6, 0.8):
        trial = study.ask(fixed_distributions=space)
        for step in (1, 2):
            assert not report(Trial(uri, "s", trial.number, pruner), step, value)
        study.tell(trial, value)
    number = study.ask(fixed_distributions=space).number
    assert not report(Trial(uri, "s", number, pruner), 1, 0.1)  # still warming up
    assert not report(Trial(uri, "s", number, pruner), 2, 0.71)  # above the median of 0.6 and 0.8
    other = study.ask(fixed_distributions=space).number
    assert report(Trial(uri, "s", other, pruner), 2, 0.69)
    assert report(Trial(uri, "s", study.ask(fixed_distributions=space).number, pruner), 1, math.nan)
    assert study.trials[number].intermediate_values == {1: 0.1, 2: 0.71}


def test_successive_halving_lets_one_in_so_many_go_on(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = open_study(uri, "s", {"val/loss": "min"}, is_new=True)
    space = distributions_of({"a": SPACE.dimensions["n"]})
    pruner = {"kind": "halving", "startup_trials": 0, "warmup": 1, "reduction": 4}
    stopped = []
    for loss in (0.5, 0.4, 0.9, 0.3, 0.8, 0.2, 0.7, 0.6):
        trial = study.ask(fixed_distributions=space)
        stopped.append(report(Trial(uri, "s", trial.number, pruner), 1, loss))
    assert stopped[2]
    assert stopped[4]
    assert stopped[6]
    assert not stopped[5]  # the best so far


def test_a_study_of_other_keys_or_other_values_is_refused(study: optuna.Study) -> None:
    study.tell(study.ask(fixed_distributions=distributions_of({"a": SPACE.dimensions["optimizer.lr"]})), 1.0)
    check_space(study, distributions_of(space_of(["a=tag(log, interval(1e-5,1))"]).dimensions))  # another width
    with pytest.raises(ConfigError, match="b is varied now alone"):
        check_space(study, distributions_of(space_of(["a=tag(log, interval(1e-5,1))", "b=1,2"]).dimensions))
    with pytest.raises(ConfigError, match="which Optuna cannot mix with x, y"):
        check_space(study, distributions_of(space_of(["a=x,y"]).dimensions))


def test_the_study_is_beside_mlflows_file_or_in_the_sweeps_folder(tmp_path: Path) -> None:
    assert storage_uri(None, f"sqlite:///{tmp_path}/mlflow.db", Path("x")) == f"sqlite:///{tmp_path}/optuna.db"
    assert storage_uri(None, "http://host:5000", tmp_path) == f"sqlite:///{tmp_path}/optuna.db"
    assert storage_uri("postgresql://a/b", "http://host:5000", tmp_path) == "postgresql://a/b"


def test_samplers_and_pruners_are_what_they_are_called() -> None:
    names = {"tpe": "TPESampler", "cmaes": "CmaEsSampler", "random": "RandomSampler", "grid": "RandomSampler"}
    for kind, name in names.items():
        assert type(make_sampler(kind, 0, 5, in_parallel=True)).__name__ == name  # type: ignore[arg-type]
    names = {"median": "MedianPruner", "halving": "SuccessiveHalvingPruner", "none": "NopPruner"}
    for kind, name in names.items():
        assert type(make_pruner(kind, 5, 1, 4)).__name__ == name  # type: ignore[arg-type]
