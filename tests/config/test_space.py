"""Search spaces as they are written, and what is wrong with them."""

import itertools
from pathlib import Path

import pytest

from trilab.config.objective import objectives_of
from trilab.config.preflight import preflight
from trilab.config.space import Choice, Interval, space_of
from trilab.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=1,2,3", ["1", "2", "3"]),
        ("seed=choice(1,2)", ["1", "2"]),
        ("seed=1,2,1", ["1", "2"]),
        ("data.batch_size=range(16,65,step=16)", ["16", "32", "48", "64"]),
        ("seed=range(3)", ["0", "1", "2"]),
        ("optimizer=glob(adam*)", ["adam", "adamw"]),
        ("experiment=glob(vision/mnist*)", ["vision/mnist_cnn", "vision/mnist_mlp"]),
        ("model.network.hidden=[16],[16,16]", ["[16]", "[16,16]"]),
        ("fit=true,false", ["True", "False"]),
    ],
)
def test_values_are_those_of_hydras_syntax(text: str, values: list[str]) -> None:
    [dimension] = space_of([text]).dimensions.values()
    assert isinstance(dimension, Choice)
    assert list(dimension.texts) == values


def test_a_glob_finds_every_option_and_leaves_out_what_it_is_told_to() -> None:
    files = {str(path.relative_to(CONF / "model").with_suffix("")) for path in (CONF / "model").glob("rl/*.yaml")}
    [dimension] = space_of(["model=glob(rl/*,exclude=*rainbow)"]).dimensions.values()
    assert set(dimension.texts) == files - {"rl/rainbow"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "interval", "written"),
    [
        ("lr=interval(0.1,2)", Interval(0.1, 2.0), "interval(0.1,2.0)"),
        (
            "lr=tag(log, interval(1e-4,1e-1))",
            Interval(1e-4, 1e-1, log=True),
            "tag(log, interval(0.0001,0.1))",
        ),
        ("n=int(interval(1,8))", Interval(1, 8, whole=True), "int(interval(1,8))"),
        ("n=tag(log, int(interval(1,8)))", Interval(1, 8, True, True), "tag(log, int(interval(1,8)))"),
    ],
)
def test_intervals_are_read_and_written(text: str, interval: Interval, written: str) -> None:
    key, _, _ = text.partition("=")
    assert space_of([text]).dimensions == {key: interval}
    assert str(interval) == written
    assert space_of([f"{key}={written}"]).dimensions == {key: interval}


def test_combinations_are_all_there_are_and_what_is_fixed_stays() -> None:
    space = space_of(["a=1,2", "fixed=x", "b=range(3)", "~gone", "c=int(interval(5,6))"])
    assert space.size == 2 * 3 * 2
    made = [space.overrides(values) for values in space.combinations()]
    expected = [
        [f"a={a}", "fixed=x", f"b={b}", "~gone", f"c={c}"] for a, b, c in itertools.product((1, 2), range(3), (5, 6))
    ]
    assert made == expected


def test_of_two_overrides_of_a_key_the_later_counts() -> None:
    assert space_of(["seed=1,2", "seed=3"]).dimensions == {}
    assert space_of(["seed=3", "seed=1,2"]).overrides({"seed": "2"}) == ["seed=2"]


RECSYS = ["experiment=recsys/deepfm_synthetic"]
OPTUNA = [*RECSYS, "hydra/sweeper=optuna"]
LR = "optimizer.lr=tag(log, interval(1e-4,1e-1))"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [LR],
            "hydra/sweeper=grid takes values, as in optimizer.lr=0.0001,0.1 or range(...). An interval is for hydra",
        ),
        (["hydra/sweeper=random", "optimizer.lr=interval(1,0.1)"], "its lower end 1 is not below its upper end 0.1."),
        (["hydra/sweeper=random", "optimizer.lr=interval(1,1)"], "its lower end 1 is not below its upper end 1."),
        (["hydra/sweeper=random", "optimizer.lr=tag(log, interval(0,1))"], "needs a lower end above 0, and 0 is not."),
        (["hydra/sweeper=random", "optimizer.lr=tag(lgo, interval(1,2))"], "no tag 'lgo'. Did you mean 'log'?"),
        (["hydra/sweeper=random", "seed=tag(log, choice(1,2))"], "tag(log, ...) is for an interval"),
        (["hydra/sweeper=random", "optimizer.lr=interval(0,inf)"], "one of these is inf."),
        (["hydra/sweeper=random", "seed=interval(1,8)"], "For whole numbers between two: int(interval(1,8))."),
        (["hydra/sweeper=random", "optimizer.lrr=interval(1,8)"], "optimizer.lrr: no such key. Did you mean 'lr'?"),
        (["hydra/sweeper=random", "optimizer.lr=interval(-1,1)"], "optimizer.lr=-1.0: expected a number > 0."),
        (
            ["hydra/sweeper=random", "data.batch_size=int(interval(-4,4))"],
            "data.batch_size=-4: expected a whole number",
        ),
        (["hydra/sweeper=random", "model=interval(0,1)"], "model is chosen from its options."),
        (["hydra/sweeper=random"], "hydra/sweeper=random: there is nothing to vary."),
        (["hydra/sweeper=optuna"], "hydra/sweeper=optuna: there is nothing to vary."),
        (["seed=range(5,5)"], "seed=range(5,5): there is nothing to choose from."),
        (["seed=range(0,5,0)"], "seed=range(0,5,0): range() arg 3 must not be zero"),
        (["seed=range(0,100000)"], "seed=range(0,100000): more than 10000 values."),
        (["optimizer=glob(x*)"], "optimizer=glob(x*): there is nothing to choose from."),
        (["seed=1,2", "optimizer.lrr=1,2"], "optimizer.lrr: no such key. Did you mean 'lr'?"),
        (["seed=1,a"], "seed=a: expected a whole number >= 0."),
        (["sweep.name=a,b"], "sweep.name=a, b: a sweep has one sweep.name."),
        (["hydra/launcher=basic,joblib"], "a sweep has one hydra/launcher."),
        (["hydra.sweep.dir=here", "seed=1,2"], "hydra.sweep.dir=here: a sweep's runs are in paths.outputs/sweeps"),
        (["hydra/sweeper=basic", "seed=1,2"], "hydra/sweeper=basic: not one of trilab's"),
        (["hydra/sweeper=optunaa", "seed=1,2"], "hydra/sweeper=optunaa: no such option. Did you mean 'optuna'?"),
        (["hydra/sweeper=random", "seed=1,2", "hydra.sweeper.n_trials=0"], "n_trials=0: expected a whole number > 0."),
        (["hydra/sweeper=random", "seed=1,2", "hydra.sweeper.n_trails=3"], "Did you mean 'n_trials'?"),
        (
            [*OPTUNA, "seed=1,2", "hydra.sweeper.sampler=tpee"],
            "sampler=tpee: expected one of tpe, cmaes, random, grid.",
        ),
        ([*OPTUNA, "seed=1,2", "hydra.sweeper.pruner=mdian"], "Did you mean 'median'?"),
        ([*OPTUNA, LR, "hydra.sweeper.sampler=grid"], "hydra.sweeper.sampler=grid takes values"),
        ([*OPTUNA, LR, "seed=1,2", "hydra.sweeper.sampler=cmaes"], "seed is chosen from values, and CMA-ES needs numb"),
        ([*OPTUNA, LR, "hydra.sweeper.sampler=cmaes"], "cmaes needs two keys to vary at least."),
        (
            [*OPTUNA, LR, "hydra.sweeper.pruner=median", "sweep.metric=[val/auc,perf/fit_s]"],
            "hydra.sweeper.pruner=median takes one metric, and sweep.metric names 2.",
        ),
        (
            [*OPTUNA, LR, "hydra.sweeper.pruner=median", "sweep.metric=test/auc"],
            "test/auc is not: choose sweep.metric=val/...",
        ),
        (
            ["experiment=vision/mnist_cnn", "hydra/sweeper=optuna", LR, "data.validation=0"],
            "nothing is validated in these runs, and values that are searched for by the test have no test left.",
        ),
        ([*RECSYS, "seed=1,2", "sweep.metric=vla/auc"], "sweep.metric=vla/auc: no such metric. Did you mean 'val'?"),
        ([*RECSYS, "seed=1,2", "sweep.metric=auc"], "sweep.metric=auc: no such metric. Did you mean 'val/auc'?"),
        ([*RECSYS, "seed=1,2", "sweep.metric=test/auc", "test=false"], "test=false, so it is never logged."),
        (
            ["experiment=vision/mnist_cnn", "seed=1,2", "sweep.metric=val/accuracy", "data.validation=0"],
            "nothing is validated in these runs",
        ),
        ([*RECSYS, "seed=1,2", "sweep.metric=perf/nonsense"], "which way is better? Set sweep.mode to min or max."),
        ([*RECSYS, "seed=1,2", "sweep.mode=max"], "sweep.mode=max: goes with sweep.metric"),
        ([*RECSYS, "seed=1,2", "sweep.metric=[]"], "expected different metrics, one at least."),
        ([*RECSYS, "seed=1,2", "sweep.metric=[val/auc]", "sweep.mode=[min,max]"], "expected one for each of the 1"),
        ([*RECSYS, "seed=1,2", "sweep.metric=val/auc", "sweep.mode=least"], "sweep.mode=least: expected one of min"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line_before_the_first_run(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        preflight(overrides, None, multirun=True)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "runs"),
    [
        (["seed=1,2", "optimizer.lr=0.1,0.2,0.3"], 6),
        (["seed=1"], 1),
        (["hydra/sweeper=random", LR], 20),
        (["hydra/sweeper=random", "seed=1,2,3"], 3),
        (["hydra/sweeper=optuna", LR, "hydra.sweeper.n_trials=7"], 7),
        (["experiment=glob(vision/mnist*)"], 2),
    ],
)
def test_the_number_of_runs_is_known_before(overrides: list[str], runs: int) -> None:
    assert preflight(overrides, None, multirun=True).runs == runs


def test_a_search_space_may_stand_in_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\n# Mine\ndefaults:\n  - recsys/deepfm_synthetic\n  - _self_\n"
    text += "hydra:\n  sweeper:\n    params:\n      optimizer.lr: tag(log, interval(1e-4, 1e-1))\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(f"{text}      seed: 1,2\n")
    mine = ["experiment=mine", "hydra/sweeper=random"]
    found = preflight(mine, str(tmp_path), multirun=True)
    assert found.swept == {"optimizer.lr": ["tag(log, interval(0.0001,0.1))"], "seed": ["1", "2"]}
    assert preflight([*mine, "seed=5"], str(tmp_path), multirun=True).swept.keys() == {"optimizer.lr"}
    (tmp_path / "experiment" / "mine.yaml").write_text(f"{text}      optimizer.lrr: 1,2\n")
    with pytest.raises(ConfigError, match=r"optimizer\.lrr: no such key"):
        preflight(mine, str(tmp_path), multirun=True)


def config(**changes: object) -> dict[str, object]:
    base = {
        "goal": {"metric": "auc", "mode": "max"},
        "sweep": {"metric": None, "mode": None},
        "data": {},
        "trainer": {"limit_val_batches": None},
        "fit": True,
        "test": True,
    }
    return {**base, **changes}


@pytest.mark.parametrize(
    ("changes", "modes", "asked"),
    [
        ({}, {"val/auc": "max"}, False),
        ({"data": {"validation": "none"}}, {"test/auc": "max"}, False),
        ({"data": {"validation": 0}}, {"test/auc": "max"}, False),
        ({"trainer": {"limit_val_batches": 0}}, {"test/auc": "max"}, False),
        ({"fit": False}, {"test/auc": "max"}, False),
        ({"sweep": {"metric": "val/logloss", "mode": None}}, {"val/logloss": "min"}, True),
        (
            {"sweep": {"metric": ["val/auc", "perf/fit_s"], "mode": None}},
            {"val/auc": "max", "perf/fit_s": "min"},
            True,
        ),
        ({"sweep": {"metric": "perf/train_samples_per_s", "mode": None}}, {"perf/train_samples_per_s": "max"}, True),
        ({"sweep": {"metric": "memory/x", "mode": "min"}}, {"memory/x": "min"}, True),
        (
            {"sweep": {"metric": ["val/auc", "perf/x"], "mode": [None, "max"]}},
            {"val/auc": "max", "perf/x": "max"},
            True,
        ),
    ],
)
def test_runs_are_chosen_by_the_validation_unless_told_otherwise(changes, modes, asked) -> None:
    found = objectives_of(config(**changes))
    assert (dict(found.modes), found.asked) == (modes, asked)
