"""Everything in conf/ composes and passes the check; what is wrong is refused in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trilab.config.catalog import GROUPS, Option, catalog
from trilab.config.check import SUPPLIED
from trilab.config.compose import compose, compose_unchecked
from trilab.config.job import Job
from trilab.config.preflight import preflight
from trilab.config.signatures import signature
from trilab.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = [option for group in GROUPS for option in catalog(group)]
#: An experiment for a field's models, and for its data, where an option has none of its own.
FIELD_EXPERIMENT = {
    ("model", "recsys"): "recsys/neumf_movielens_1m",
    ("data", "recsys"): "recsys/deepfm_criteo",
    **dict.fromkeys((("model", "rl"), ("data", "rl")), "rl/dqn_cartpole"),
    **dict.fromkeys((("model", "vision"), ("data", "vision")), "vision/mnist_cnn"),
}
#: What an option leaves to the user.
GIVEN = {
    "recsys/csv": ["data.train_path=a.csv", "data.label=y", "data.categorical=[a,b]"],
    "vision/image_folder": ["data.root=images"],
}


def experiment_text(option: Option) -> str:
    return (CONF / "experiment" / f"{option.name}.yaml").read_text()


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.group}={option.name}")
def test_every_option_composes(option: Option) -> None:
    overrides = [f"{option.group}={option.name}"]
    field = option.name.partition("/")[0]
    if option.group in ("model", "data"):
        own = [e.name for e in catalog("experiment") if f"/{option.group}: {option.name}\n" in experiment_text(e)]
        overrides.append(f"experiment={(own or [FIELD_EXPERIMENT[option.group, field]])[0]}")
    config = compose([*overrides, *GIVEN.get(option.name, [])])
    assert config[option.group] if option.group != "experiment" else config.goal.metric


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.group}={option.name}")
def test_every_option_says_what_it_is(option: Option) -> None:
    assert 10 < len(option.description) <= 120


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_key_has_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        text = line.strip()
        if not text or text.startswith(("#", "-", "_target_", "defaults")) or ": " not in f"{text} ":
            continue
        opens_a_part = text.split("#")[0].strip().endswith(":")
        in_experiment = "experiment" in path.parts
        if not (opens_a_part or in_experiment):
            assert "#" in line or lines[number - 1].strip().startswith("#"), f"{path.name}:{number + 1}: {text}"


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_knob_of_our_own_classes_is_in_conf(path: Path) -> None:
    """No parameter of a trilab class is hidden: a file that names the class lists it, or inherits a file that does."""

    def nodes(value: object) -> list[dict]:
        if isinstance(value, dict):
            return [*([value] if "_target_" in value else []), *(n for v in value.values() for n in nodes(v))]
        return []

    optional = {"init_scale", "growth_factor", "backoff_factor", "growth_interval", "force_fp16_on_cpu"}
    for node in nodes(yaml.safe_load(path.read_text())):
        target = node["_target_"]
        if target.startswith("trilab.") and "defaults" not in node:
            missing = set(signature(target).parameters) - set(node) - SUPPLIED
            if node.get("_partial_"):  # what has no default comes from the program
                missing &= signature(target).defaults
            assert missing <= (optional if target == "trilab.precision.Precision" else set()), target


WRONG = [
    (["model=rl/q_learning"], "made for another model. Choose one of rl/q_learning_cliff_walking, rl/q_learning_"),
    (["experiment=rl/q_learning_taxi", "optimizer=adam"], "the experiment is made for another optimizer."),
    (
        ["data.env_kwargs.gravity=1"],
        "no such key. data.env_kwargs is empty here; +data.env_kwargs.gravity=...",
    ),
    (["+data.env_kwargs.gravity=1"], "gravity"),
    (["data.env_id=Pendulum-v1"], "value-based agents need a Discrete one"),
    (
        ["data.env_id=Blackjack-v1"],
        "only Box (an array of one shape) and Discrete (the number of",
    ),
    (["model.n_step=60000"], "is not below data.replay_capacity / data.num_envs = 6250"),
    (["+model.network.atoms=3"], "model.network.atoms: set by the model itself; use model.atoms instead."),
    (["model.distributional=c51", "model.v_min=5", "model.v_max=1"], "the atoms need a range."),
    (
        ["experiment=recsys/deepfm_criteo", "data=recsys/csv", "data.label=y"],
        "data.categorical, data.train_path: without a default",
    ),
    (
        [
            "experiment=recsys/deepfm_synthetic",
            "model.network._target_=trilab.models.recsys.mf.MatrixFactorization",
            "~model.network.hidden",
            "~model.network.dropout",
        ],
        "model=recsys/mf scores a user and an item, and data=recsys/synthetic has neither.",
    ),
    (["tracking.experiment_name=a/b", "optimizer.lrr=1"], "optimizer.lrr: no such key."),
    (["modle=rl/dqn"], "modle: no such key. Did you mean 'model'?"),
    (["model=rl/dqnn"], "model=rl/dqnn: no such option. Did you mean 'rl/dqn'?"),
    (["model=dqn"], "model=dqn: no such option. Did you mean 'rl/dqn'?"),
    (["experiment=rl/double_dqn_cartpol"], "Did you mean 'rl/double_dqn_cartpole'?"),
    (["precision=float32"], "Did you mean 'fp32'? Allowed: 16-mixed, bf16-mixed, fp32."),
    (["precision=bf16"], "Did you mean 'bf16-mixed'?"),
    (["accelerator=gpu"], "Did you mean 'cuda'?"),
    (["data.env_id=CartPol-v1"], "data.env_id=CartPol-v1: no such environment. Did you mean 'CartPole-v1'?"),
    (["data.learning_starts=100000"], "learning would never start."),
    (["data.batch_size=60000"], "the replay would never hold enough."),
    (["optimizer.lrr=1"], "optimizer.lrr: no such key. Did you mean 'lr'? Allowed in optimizer: betas,"),
    (["model.epsilon.strat=1"], "model.epsilon.strat: no such key. Did you mean 'start'?"),
    (["optimizer.lr.x=1"], "optimizer.lr.x: no such key."),
    (["+optimizer.amsgrd=true"], "optimizer.amsgrd: no such key. Did you mean 'amsgrad'?"),
    (["+nonsense=1"], "nonsense: no such key."),
    (["optimizer.lr=abc"], "optimizer.lr=abc: expected a number > 0."),
    (["optimizer.lr=0"], "optimizer.lr=0: expected a number > 0."),
    (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: expected a list of 2:"),
    (["model.gamma=1.5"], "model.gamma=1.5: expected a number >= 0 and <= 1."),
    (["model.loss=hubr"], "model.loss=hubr: expected one of mse, huber. Did you mean 'huber'?"),
    (["trainer.max_epochs=two"], "trainer.max_epochs=two: expected a whole number >= -1 or null."),
    (["trainer.max_epochs=1.5"], "trainer.max_epochs=1.5: expected a whole number >= -1 or null."),
    (["trainer.accelerator=cpu"], "trainer.accelerator"),
    (["+trainer.precision=16"], "trainer.precision: set by trilab itself; use the group precision= instead."),
    (["seed=-1"], "seed=-1: expected a whole number >= 0."),
    (["seed=null"], "seed=null: expected a whole number >= 0."),
    (["seed=true"], "seed=true: expected a whole number >= 0."),
    (["data.batch_size=0"], "data.batch_size=0: expected a whole number > 0."),
    (["goal.mode=maximum"], "goal.mode=maximum: expected one of min, max. Did you mean 'max'?"),
    (["model._target_=trilab.models.rl.dqn.DQNN"], "there is no trilab.models.rl.dqn.DQNN. Did you mean 'DQN'?"),
    (["fit=false", "test=false"], "nothing to do"),
    (["model=vision/mlp"], "model=vision/mlp cannot learn from data=rl/cartpole."),
    (["seed"], "'seed' is not an override."),
    (["data.env_id=[1,"], "cannot be read."),
    (["seed=1,2"], "several values make a sweep. Add -m"),
    (["accelerator=cuda:0"], "accelerator=cuda:0: no such option. Did you mean 'cuda'?"),
    (["optimizer=null"], "optimizer=null: no such option."),
    (["+trainer.enable_progress_bar=true"], "set by trilab itself; use callbacks.progress instead."),
    (["trainer.max_time=abc"], "trainer.max_time=abc: expected a text that matches"),
    (["trainer.limit_train_batches=1.5"], "expected a whole number >= 0, a number >= 0 and <= 1 or null."),
    (["trainer.devices=2"], "trainer.devices=2: an agent of rl learns on one device"),
    (["trainer.devices=0"], "trainer.devices=0: expected a whole number > 0."),
    (["hydra/launcher=jobli"], "hydra/launcher=jobli: no such option. "),
    (["hydra.verbos=1"], "hydra.verbos: no such key. Did you mean 'verbose'?"),
]


@pytest.mark.parametrize(
    ("overrides", "said"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_is_wrong_is_said_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        preflight(overrides, None, multirun=False)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_value_anywhere_in_a_sweep_is_found_before_its_first_run() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lr=abc"):
        preflight(["optimizer.lr=1e-3,1e-4,abc", "seed=1,2"], None, multirun=True)
    preflight(["optimizer.lr=1e-3,1e-4", "seed=range(3)", "precision=fp32,bf16-mixed"], None, multirun=True)


def test_a_wrong_override_is_refused_before_torch_is_imported_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['trilab', 'train', 'optimizer.lrr=1']\n"
        "from trilab.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'pytorch_lightning', 'mlflow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("trilab: optimizer.lrr: no such key.")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_users_folder_adds_options(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# Mine\ndefaults:\n  - rl/dqn_cartpole\n  - _self_\nseed: 77\n"
    )
    config = compose(["experiment=mine"], tmp_path)
    assert config.seed == 77
    assert "mine" in [option.name for option in catalog("experiment", tmp_path)]
    with pytest.raises(ConfigError, match="no such folder"):
        compose([], tmp_path / "nowhere")


def test_a_stores_password_is_in_nothing_that_is_kept() -> None:
    overrides = ["tracking.uri=http://me:secret@host:5000"]
    job = Job.of(compose(overrides), {}, overrides).public
    assert "secret" not in f"{job.config} {job.overrides}"
    assert "http://***@host:5000" in f"{job.config} {job.overrides}"


def test_the_hash_names_what_is_computed() -> None:
    def hash_of(*overrides: str) -> str:
        return Job.of(compose(overrides), {}, []).hash

    assert hash_of() == hash_of("tracking.run_name=other", "paths.outputs=elsewhere")
    assert len({hash_of(), hash_of("seed=2"), hash_of("optimizer.lr=0.5"), hash_of("precision=bf16-mixed")}) == 4


@pytest.mark.parametrize(
    ("overrides", "threshold"),
    [
        (["experiment=vision/mnist_cnn"], 0.99),
        (["experiment=vision/mnist_cnn", "model=vision/mlp", "data.batch_size=32"], 0.99),
        (["experiment=vision/mnist_cnn", "data=vision/fashion_mnist"], None),  # what is good there is another figure
        (["experiment=vision/mnist_cnn", "data=vision/fashion_mnist", "goal.threshold=0.9"], 0.9),
        (["experiment=recsys/deepfm_criteo", "data=recsys/synthetic"], None),
    ],
)
def test_a_goal_is_of_the_experiments_own_data(overrides: list[str], threshold: float | None) -> None:
    goal = Job.of(*compose_unchecked(overrides), overrides).goal
    assert goal["threshold"] == threshold
    assert (goal["source"] is None) == any(text.startswith("data=") for text in overrides)
