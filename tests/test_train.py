"""Runs through the command line, as a user starts them, and what MLflow holds of them afterwards."""

import json
from collections.abc import Callable
from pathlib import Path

import conftest
import pytest
import yaml
from conftest import FEW_STEPS
from mlflow import MlflowClient
from mlflow.entities import Run

from trilab.cli import main
from trilab.commands.source import store
from trilab.config.catalog import catalog
from trilab.errors import ConfigError

Runs = Callable[[], list[Run]]


def trilab(*arguments: str) -> int:
    """Exit code of a command run in this process."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    return int(raised.value.code or 0)


def small(experiment: str) -> list[str]:
    return [
        f"experiment={experiment}",
        *FEW_STEPS,
        *conftest.small(experiment),
        "tracking.system_metrics=false",
    ]


def artifacts(run: Run, path: str | None = None) -> set[str]:
    return {
        item.path for item in MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db").list_artifacts(run.info.run_id, path)
    }


#: Experiments with a field, a model and a kind of data that others have too, and that take long even when small.
LONG = ("rl/dqn_pong", "rl/double_dqn_lunar_lander", "rl/dqn_acrobot", "vision/cifar10_resnet18")
EXPERIMENTS = [
    pytest.param(option.name, marks=[pytest.mark.slow, pytest.mark.exhaustive] if option.name in LONG else [])
    for option in catalog("experiment")
]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs(experiment: str, runs: Runs) -> None:
    assert trilab("train", *small(experiment)) == 0
    [run] = runs()
    goal = yaml.safe_load((Path(__file__).parents[1] / "conf" / "experiment" / f"{experiment}.yaml").read_text())[
        "goal"
    ]
    assert run.info.status == "FINISHED"
    validated = run.data.params.get("data.validation") not in ("none", "0")
    assert (f"val/{goal['metric']}" in run.data.metrics) == validated
    assert f"test/{goal['metric']}" in run.data.metrics
    assert {"perf/first_batch_s", "perf/epoch_s", "perf/fit_s", "perf/peak_memory_mb"} <= set(run.data.metrics)
    assert run.data.metrics["precision/optimizer_steps"] > 0
    assert {"config.yaml", "overrides.yaml", "environment.txt", "summary.json", "checkpoints"} <= artifacts(run)
    kept = ["best", "last"] if validated else ["last"]
    assert artifacts(run, "checkpoints") == {f"checkpoints/{name}.ckpt" for name in kept}


def test_a_run_holds_its_whole_configuration_and_says_what_it_ran_on(runs: Runs, workdir: Path) -> None:
    assert trilab("train", *small("vision/mnist_cnn"), "seed=5", "precision=bf16-mixed", "accelerator=cpu") == 0
    [run] = runs()
    assert run.data.params["optimizer.lr"] == "0.005"
    assert run.data.params["seed"] == "5"
    assert run.data.params["model.network.channels"] == "[32, 64]"
    tags = run.data.tags
    assert tags["precision.requested"] == tags["precision.effective"] == "bf16-mixed"
    assert tags["accelerator.requested"] == tags["accelerator.effective"] == "cpu"
    assert tags["trilab.experiment"] == "vision/mnist_cnn"
    assert tags["trilab.x_axis"] == "optimizer_steps"
    assert {
        "device.name",
        "runtime.threads",
        "runtime.matmul_precision",
        "runtime.allocator",
        "trilab.config_hash",
    } <= set(tags)
    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    config = yaml.safe_load(Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text())
    assert config["seed"] == 5
    assert config["trainer"]["limit_train_batches"] == 2
    summary = json.loads(Path(client.download_artifacts(run.info.run_id, "summary.json")).read_text())
    assert summary["result"] == pytest.approx(run.data.metrics["test/accuracy"])
    assert summary["goal_reached"] is False


def test_16_mixed_on_a_cpu_runs_as_bf16_mixed_and_says_so(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    assert trilab("train", *small("vision/mnist_cnn"), "precision=16-mixed", "accelerator=cpu") == 0
    [run] = runs()
    assert run.data.tags["precision.requested"] == "16-mixed"
    assert run.data.tags["precision.effective"] == "bf16-mixed"
    assert capfd.readouterr().err.count("16-mixed runs as bf16-mixed on a CPU") == 1


def test_strict_precision_refuses_without_a_run(runs: Runs, workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    strict = ["precision=16-mixed", "precision.strict=true", "accelerator=cpu"]
    assert trilab("train", *small("vision/mnist_cnn"), *strict) == 2
    assert "precision.strict=true" in capfd.readouterr().err
    assert runs() == []
    assert not (workdir / "outputs").exists()


@pytest.mark.parametrize("experiment", ["vision/mnist_cnn", "rl/double_dqn_cartpole", "recsys/deepfm_synthetic"])
def test_real_fp16_with_a_scaler_can_be_forced_on_a_cpu(experiment: str, runs: Runs) -> None:
    forced = [
        "precision=16-mixed",
        "precision.force_fp16_on_cpu=true",
        "accelerator=cpu",
        "trainer.limit_train_batches=3",
    ]
    # A scale this high overflows float16 at first, so that steps are skipped.
    assert trilab("train", *small(experiment), *forced, "precision.init_scale=1e30") == 0
    [run] = runs()
    metrics = run.data.metrics
    assert run.data.tags["precision.effective"] == "16-mixed"
    assert metrics["precision/skipped_steps"] >= 1
    assert metrics["precision/loss_scale"] == pytest.approx(1e30 * 0.5 ** metrics["precision/skipped_steps"])


@pytest.mark.parametrize("clip", [[], ["trainer.gradient_clip_val=0.5"]])
def test_gradient_clipping_works_in_every_field_and_precision(clip: list[str], runs: Runs) -> None:
    for experiment in ("vision/mnist_cnn", "rl/double_dqn_cartpole"):
        for precision in (["precision=fp32"], ["precision=16-mixed", "precision.force_fp16_on_cpu=true"]):
            assert trilab("train", *small(experiment), *precision, *clip, "accelerator=cpu", "test=false") == 0
    assert {run.info.status for run in runs()} == {"FINISHED"}


def test_one_seed_one_result(runs: Runs) -> None:
    for seed in (1, 1, 2):
        assert trilab("train", *small("recsys/deepfm_synthetic"), f"seed={seed}") == 0
    losses = [run.data.metrics["test/logloss"] for run in runs()]
    assert losses[0] == losses[1] != losses[2]
    hashes = [run.data.tags["trilab.config_hash"] for run in runs()]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_sweep_runs_every_combination_and_goes_on_after_a_failure(
    runs: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = [
        *small("vision/mnist_cnn"),
        "paths.data=nowhere,${oc.env:TRILAB_DATA_DIR}",
        "precision=fp32,bf16-mixed",
    ]
    assert trilab("train", "-m", *overrides) == 1
    [parent] = [run for run in runs() if run.data.tags.get("trilab.kind") == "sweep"]
    children = [run for run in runs() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.status for run in children) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    assert parent.info.status == "FAILED"
    assert len({run.data.tags["trilab.sweep"] for run in runs()}) == 1
    shown = capfd.readouterr()
    assert "nowhere/MNIST/raw" in shown.err
    assert "2 of 4 runs finished, 2 failed" in shown.out
    [row] = [line for line in shown.out.splitlines() if line.startswith("paths.data=nowhere precision=bf16-mixed")]
    assert "failed: mnist:" in row


def test_an_error_while_building_is_a_failed_run_and_one_line(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    assert trilab("train", *small("vision/mnist_cnn"), "paths.data=nowhere") == 1
    [run] = runs()
    assert run.info.status == "FAILED"
    assert "traceback.txt" in artifacts(run)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("trilab: ")]
    assert len(errors) == 1
    assert "nowhere/MNIST/raw" in errors[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.val_check_interval=100000", "must be less than or equal to the number of the training batches"),
        ("goal.metric=nonsense", "could not find the monitored key in the returned metrics"),
        ("+optimizer.foreach=true", "`fused` and `foreach` cannot be `True` together."),
    ],
)
def test_what_lightning_and_torch_refuse_is_one_line(
    override: str, said: str, runs: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trilab("train", *small("vision/mnist_cnn"), "callbacks.memory_account=null", override) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if not line.startswith(("vision", "epoch"))]
    assert len(errors) == 1
    assert said in errors[0]
    assert [run.info.status for run in runs()] == ["FAILED"]


@pytest.mark.parametrize("hook", ["training_step", "test_step"])
def test_an_exception_in_a_step_is_a_failed_run(hook: str, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from trilab.models.vision.classifier import Classifier

    def broken(*arguments: object) -> None:
        raise RuntimeError(f"broken {hook}")

    monkeypatch.setattr(Classifier, hook, broken)
    assert trilab("train", *small("vision/mnist_cnn")) == 1
    [run] = runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["trilab.end"] == f"RuntimeError: broken {hook}"
    assert "traceback.txt" in artifacts(run)


def test_a_store_that_cannot_be_reached_is_one_line(
    workdir: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert (
        trilab(
            "train", *small("vision/mnist_cnn"), "tracking.uri=http://user:secret@127.0.0.1:9", "tracking.offline=fail"
        )
        == 1
    )
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("trilab: ")]
    assert errors[0].startswith("trilab: Cannot use the tracking store http://***@127.0.0.1:9")
    assert "secret" not in "".join(errors)


def test_a_damaged_store_is_one_line_and_left_alone(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (workdir / "mlflow.db").write_text("this is no database")
    for command in (["train", *small("vision/mnist_cnn")], ["evaluate", "run=0123"]):
        assert trilab(*command) == 1
        errors = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("vision/")]
        assert len(errors) == 1
        assert "file is not a database" in errors[0]
    assert (workdir / "mlflow.db").read_text() == "this is no database"


def test_evaluate_repeats_the_test_of_a_run(runs: Runs, workdir: Path) -> None:
    assert trilab("train", *small("vision/mnist_cnn")) == 0
    [trained] = runs()
    assert trilab("evaluate", f"run={trained.info.run_id}") == 0
    checkpoint = next(workdir.glob("outputs/**/best.ckpt"))
    assert trilab("evaluate", f"checkpoint={checkpoint}", "precision=bf16-mixed", "data.eval_batch_size=50") == 0
    _, by_run, by_checkpoint = runs()
    for run in (by_run, by_checkpoint):
        assert run.info.status == "FINISHED"
        assert run.data.tags["trilab.source_run"] == trained.info.run_id
        assert run.info.experiment_id == trained.info.experiment_id
    assert by_run.data.metrics["test/accuracy"] == trained.data.metrics["test/accuracy"]
    assert by_run.data.metrics["test/loss"] == pytest.approx(trained.data.metrics["test/loss"], rel=1e-6)
    assert by_checkpoint.data.tags["precision.effective"] == "bf16-mixed"
    assert by_checkpoint.data.params["data.eval_batch_size"] == "50"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "evaluate needs one of run=<MLflow run id> and checkpoint=<path>."),
        (["rnu=1"], "Did you mean 'run'?"),
        (["run=0123"], "run=0123: no such run"),
        (["checkpoint=nowhere.ckpt"], "checkpoint=nowhere.ckpt: there is no such file."),
        (["checkpoint=mlflow.db"], "checkpoint=mlflow.db: not a checkpoint of trilab."),
        (["run=1", "tracking.uri=sqlite:///other.db"], "There is no store"),
    ],
)
def test_evaluate_refuses_in_one_line(
    arguments: list[str], said: str, workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trilab("evaluate", *arguments) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert said in line


def test_a_checkpoint_goes_to_the_environments_store_and_never_to_a_half_known_one(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = "http://***@host:5000"
    with pytest.raises(ConfigError, match="a checkpoint keeps no password"):
        store(kept, ["seed=1"])
    assert store(kept, ["tracking.uri=http://me:secret@host:5000"]) == kept  # the override replaces it
    assert store(None, []) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    assert store(kept, []) == "http://me:secret@host:5000"


def test_a_checkpoint_of_another_network_is_one_line(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    assert trilab("train", *small("vision/mnist_cnn"), "model.network.hidden=16") == 0
    capfd.readouterr()
    assert trilab("evaluate", f"run={runs()[0].info.run_id}", "model.network.hidden=32") == 1
    [line] = capfd.readouterr().err.splitlines()
    assert "The checkpoint does not fit the model" in line
    assert [run.info.status for run in runs()] == ["FINISHED", "FAILED"]


def test_evaluate_checks_its_overrides(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    assert trilab("train", *small("vision/mnist_cnn")) == 0
    [trained] = runs()
    for override, said in {
        "data.eval_batch=5": "Did you mean 'eval_batch_size'?",
        "data.eval_batch_size=-5": "expected a whole number > 0",
        "model=vision/mlp": "evaluated with the model it was trained with",
        "precision=fp8": "no such option",
    }.items():
        capfd.readouterr()
        assert trilab("evaluate", f"run={trained.info.run_id}", override) == 2
        assert said in capfd.readouterr().err
    assert len(runs()) == 1
