"""Agents trained at once as one batch, and trainings that go on: what MLflow and the folders hold afterwards."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from fake_agents import BATCHES, RATE, TARGET, best_epoch, score, weight_after
from mlflow import MlflowClient
from mlflow.entities import Run
from test_train import artifacts, trilab

from trilab.tracking import run as tracking_run

Runs = Callable[[], list[Run]]
EPOCHS = 8
SEEDS = [0, 3, 5]
#: That they are best at different epochs is what makes the tests tell something.
assert len({best_epoch(seed, EPOCHS) for seed in SEEDS}) == 3


@pytest.fixture
def fake(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides that run the fake agents; in `workdir`."""
    monkeypatch.setenv("TRILAB_ALLOW", "fake_agents")
    files = {
        "model/walkers.yaml": {
            "_target_": "fake_agents.Walkers",
            "seed": "${seed}",
            "fail_in": None,
            "stop_by": None,
            "silent_seed": None,
        },
        "data/targets.yaml": {"_target_": "fake_agents.Targets", "seed": "${seed}"},
        "experiment/walk.yaml": {
            "defaults": [
                {"override /model": "walkers"},
                {"override /data": "targets"},
                {"override /optimizer": "sgd"},
                {"override /callbacks": "default"},
            ],
            "goal": {"metric": "score", "mode": "max", "threshold": -0.3, "source": "made up"},
            "optimizer": {"lr": RATE, "momentum": 0.0, "weight_decay": 0.0},
            "trainer": {"max_epochs": EPOCHS, "log_every_n_steps": 1},
        },
    }
    for name, content in files.items():
        path = workdir / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        header = "# @package _global_\n" if name.startswith("experiment") else ""
        path.write_text(header + yaml.safe_dump(content))
    return ["--config-dir", "mine", "experiment=walk", "accelerator=cpu", "tracking.system_metrics=false"]


def family(found: list[Run]) -> tuple[Run, list[Run]]:
    """The parent, and the members in the order of their seeds."""
    [parent] = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    members = [run for run in found if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in members} <= {parent.info.run_id}
    assert {run.data.tags["trilab.seed_batch"] for run in members} <= {parent.info.run_id}
    return parent, sorted(members, key=lambda run: int(run.data.params.get("seed", 0)))


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")


def history(run: Run, metric: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client().get_metric_history(run.info.run_id, metric))


def text(run: Run, path: str) -> str:
    return Path(client().download_artifacts(run.info.run_id, path)).read_text()


def test_every_agent_has_a_run_as_if_it_were_alone(
    fake: list[str], runs: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trilab("train", *fake, "trainer.seeds=[0,3,5]") == 0
    shown = capfd.readouterr().out
    parent, members = family(runs())
    assert {run.info.status for run in (parent, *members)} == {"FINISHED"}
    assert [run.data.params["seed"] for run in members] == ["0", "3", "5"]
    assert [run.info.run_name for run in (parent, *members)][:2] == [
        "seeds=0,3,5 fp32 walkers targets",
        "seed=0 fp32 walkers targets",
    ]
    for seed, run in zip(SEEDS, members, strict=True):
        best = weight_after(seed, best_epoch(seed, EPOCHS))
        walked = [(BATCHES * epoch, weight_after(seed, epoch)) for epoch in range(1, EPOCHS + 1)]
        seen = history(run, "val/weight")
        assert [step for step, _ in seen] == [step for step, _ in walked]
        assert [value for _, value in seen] == pytest.approx([value for _, value in walked], rel=1e-5)
        assert run.data.metrics["test/weight"] == pytest.approx(best, rel=1e-5)
        losses = [(seed - TARGET) ** 2 * (1 - 2 * RATE) ** (2 * step) for step in range(BATCHES * EPOCHS)]
        assert [value for _, value in history(run, "train/loss")] == pytest.approx(losses, rel=1e-4)
        assert not any(name.startswith(("perf/", "precision/")) or name.endswith("_std") for name in run.data.metrics)
        assert artifacts(run) >= {"config.yaml", "overrides.yaml", "environment.txt", "summary.json"}
        assert artifacts(run, "checkpoints") == {"checkpoints/best.ckpt"}
        config = yaml.safe_load(text(run, "config.yaml"))
        assert config["seed"] == config["model"]["seed"] == config["data"]["seed"] == seed
        assert config["trainer"]["seeds"] is None
        summary = json.loads(text(run, "summary.json"))
        assert summary["result"] == pytest.approx(score(best), rel=1e-4)
        assert summary["goal_reached"] == (score(best) >= -0.3)
    last = {seed: score(weight_after(seed, EPOCHS)) for seed in SEEDS}
    mean = sum(last.values()) / 3
    assert history(parent, "val/score")[-1][1] == pytest.approx(mean, rel=1e-4)
    deviations = [(value - mean) ** 2 for value in last.values()]
    assert parent.data.metrics["val/score_std"] == pytest.approx((sum(deviations) / 2) ** 0.5, rel=1e-4)
    assert {"perf/train_samples_per_s", "perf/strides_per_s", "perf/step_ms"} <= set(parent.data.metrics)
    assert artifacts(parent, "checkpoints") == {"checkpoints/last.ckpt"}
    results = [score(weight_after(seed, best_epoch(seed, EPOCHS))) for seed in SEEDS]
    summary = json.loads(text(parent, "summary.json"))
    assert list(summary["results"].values()) == pytest.approx(results, rel=1e-4)
    assert summary["result"] == summary["result_interquartile_mean"] == pytest.approx(sum(results) / 3, rel=1e-4)
    assert (summary["result_min"], summary["result_max"]) == pytest.approx((min(results), max(results)), rel=1e-4)
    assert summary["goal_reached"] == sum(result >= -0.3 for result in results)
    for run in members:
        assert run.info.run_id in shown
    assert f"reached by {summary['goal_reached']} of 3" in shown


def test_an_agent_of_a_batch_is_the_agent_alone(fake: list[str], runs: Runs) -> None:
    assert trilab("train", *fake, "trainer.seeds=[5,3]", "trainer.max_epochs=3") == 0
    _, (member, _) = family(runs())
    assert trilab("train", *fake, "seed=3", "trainer.max_epochs=3") == 0
    alone = runs()[-1]
    assert history(alone, "val/score") == history(member, "val/score")
    losses, theirs = history(alone, "train/loss"), history(member, "train/loss")
    assert [step for step, _ in losses] == [step for step, _ in theirs]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in theirs], rel=1e-6)
    assert alone.data.metrics["test/score"] == member.data.metrics["test/score"]
    for tag in ("trilab.config_hash", "trilab.x_axis", "trilab.experiment", "device.name"):
        assert alone.data.tags[tag] == member.data.tags[tag]


def test_evaluate_tests_one_agent(fake: list[str], runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    assert trilab("train", *fake, "trainer.seeds=[0,5]", "trainer.max_epochs=2", "hydra.run.dir=a") == 0
    parent, (other, member) = family(runs())
    checkpoint, whole = "a/seed_5/checkpoints/best.ckpt", "a/checkpoints/last.ckpt"
    assert trilab("evaluate", f"run={member.info.run_id}") == 0
    assert trilab("evaluate", f"checkpoint={checkpoint}") == 0
    for tested in runs()[-2:]:
        assert tested.data.metrics["test/score"] == member.data.metrics["test/score"]
        assert tested.data.tags["trilab.source_run"] == member.info.run_id

    # Of the whole batch there is nothing to evaluate.
    for source, said in (
        ([f"run={parent.info.run_id}"], f"run={other.info.run_id} (seed 0)"),
        ([f"checkpoint={whole}"], "seed_0/checkpoints/best.ckpt"),
        ([f"run={member.info.run_id}", "trainer.seeds=[1,2]"], "one agent is evaluated at a time"),
    ):
        capfd.readouterr()
        assert trilab("evaluate", *source) == 2
        assert said in capfd.readouterr().err


def test_an_agent_without_a_value_is_left_out(fake: list[str], runs: Runs) -> None:
    assert trilab("train", *fake, "trainer.seeds=[0,3,5]", "model.silent_seed=3", "trainer.max_epochs=2") == 0
    parent, (first, silent, last) = family(runs())
    assert "val/score" not in silent.data.metrics
    assert parent.data.metrics["val/score"] == pytest.approx(
        (first.data.metrics["val/score"] + last.data.metrics["val/score"]) / 2
    )
    assert artifacts(silent, "checkpoints") == set()
    assert silent.data.metrics["test/weight"] == pytest.approx(weight_after(3, 2), rel=1e-5)  # the last weights


@pytest.mark.parametrize("fail_in", ["init", "training_step", "test_step"])
def test_a_failure_is_that_of_every_run(fail_in: str, fake: list[str], runs: Runs) -> None:
    assert trilab("train", *fake, "trainer.seeds=[0,1]", f"model.fail_in={fail_in}") == 1
    parent, members = family(runs())
    assert len(members) == 2
    for run in (parent, *members):
        assert run.info.status == "FAILED"
        assert run.info.end_time is not None
        assert run.data.tags["trilab.end"].endswith(f"broken {fail_in}")
        assert f"broken {fail_in}" in text(run, "traceback.txt")
    if fail_in != "init":
        assert all(artifacts(run, "checkpoints") == {"checkpoints/best.ckpt"} for run in members)
        assert artifacts(parent, "checkpoints") == {"checkpoints/last.ckpt"}


def test_a_failure_while_the_runs_are_opened_leaves_none_running(
    fake: list[str], runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, count = tracking_run.MlflowClient.create_run, 0

    def failing(*arguments: object, **named: object) -> object:
        nonlocal count
        count += 1
        if count == 3:
            raise RuntimeError("the store is full")
        return create(*arguments, **named)

    monkeypatch.setattr(tracking_run.MlflowClient, "create_run", failing)
    assert trilab("train", *fake, "trainer.seeds=[0,1,2]") == 1
    assert [run.info.status for run in runs()] == ["FAILED", "FAILED"]


def test_a_run_that_cannot_be_ended_at_first_is_ended_after_all(
    fake: list[str], runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, count = tracking_run.MlflowClient.set_terminated, 0

    def failing(*arguments: object, **named: object) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise RuntimeError("locked")
        end(*arguments, **named)

    monkeypatch.setattr(tracking_run.MlflowClient, "set_terminated", failing)
    assert trilab("train", *fake, "trainer.seeds=[0,1,2]", "trainer.max_epochs=1") == 0
    assert [run.info.status for run in runs()] == ["FINISHED"] * 4


@pytest.mark.parametrize(("stop_by", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_every_run_as_killed(stop_by: str, code: int, fake: list[str], runs: Runs) -> None:
    assert trilab("train", *fake, "trainer.seeds=[0,1]", f"model.stop_by={stop_by}") == code
    parent, members = family(runs())
    for run in (parent, *members):
        assert run.info.status == "KILLED"
        assert run.data.tags["trilab.end"] == stop_by
    assert all(artifacts(run, "checkpoints") == {"checkpoints/best.ckpt"} for run in members)


@pytest.mark.slow
def test_sweeps_of_batches(fake: list[str], runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    short = ["trainer.max_epochs=1", "test=false"]
    assert trilab("train", "-m", *fake, *short, "trainer.seeds=[0,1],[2,3]", "optimizer.lr=0.05,0.1") == 0
    found = runs()
    assert len(found) == 1 + 4 * 3
    assert len({run.data.tags["trilab.sweep"] for run in found}) == 1
    shown = capfd.readouterr().out
    assert "4 of 4 runs finished, 0 failed" in shown
    assert shown.count("val/score of 2 agents: mean") == 4


def test_a_smoke_test_of_a_batch(fake: list[str], runs: Runs) -> None:
    assert trilab("train", *fake, "trainer.seeds=[0,1]", "trainer.fast_dev_run=true") == 0
    assert [run.info.status for run in runs()] == ["FINISHED"] * 3


def test_a_batch_of_one_is_a_lone_run(fake: list[str], runs: Runs) -> None:
    assert trilab("train", *fake, "trainer.seeds=[7]", "trainer.max_epochs=1") == 0
    [run] = runs()
    assert run.data.params["seed"] == "7"
    assert run.data.params["trainer.seeds"] == "null"


def test_what_is_left_in_the_folder_of_artifacts_is_uploaded(
    fake: list[str], runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fake_agents import Walkers

    def leave(self: Walkers) -> None:
        root = Path(self.trainer.default_root_dir)
        for folder in (root, root / "seed_1"):
            (folder / "artifacts" / "plots").mkdir(parents=True)
            (folder / "artifacts" / "plots" / "x.txt").write_text("x")

    monkeypatch.setattr(Walkers, "on_fit_end", leave)
    assert trilab("train", *fake, "trainer.seeds=[0,1]", "trainer.max_epochs=1", "model.fail_in=test_step") == 1
    parent, (without, with_one) = family(runs())
    assert artifacts(parent, "plots") == artifacts(with_one, "plots") == {"plots/x.txt"}
    assert "plots" not in artifacts(without)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["experiment=vision/mnist_cnn", "trainer.seeds=[1,2]"], "which only models and data of rl can"),
        (["trainer.seeds=[1,1]"], "1 stands there twice"),
        (["trainer.seeds=[]"], "expected one seed at least"),
        (["trainer.seeds=[-1]"], "expected a list of a whole number >= 0"),
        (["trainer.seeds=1"], "expected a list of a whole number >= 0"),
        (["trainer.sed=[1]"], "Did you mean 'seeds'?"),
        (
            ["trainer.seeds=[1,2]", "precision=16-mixed", "precision.force_fp16_on_cpu=true", "accelerator=cpu"],
            "one loss scale, which cannot serve the independent agents",
        ),
        (["resume=nowhere.ckpt"], "resume=nowhere.ckpt: there is no such file."),
        (["resume=mlflow.db"], "resume=mlflow.db: not a checkpoint of trilab."),
        (["resume=mlflow.db", "fit=false"], "fit=false leaves it out"),
    ],
)
def test_wrong_seeds_and_wrong_resumes_are_one_line(
    overrides: list[str], said: str, runs: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trilab("train", *overrides) == 2
    errors = [
        line for line in capfd.readouterr().err.splitlines() if line.startswith("trilab: ") and "slow" not in line
    ]
    assert len([line for line in errors if said in line]) == 1
    assert runs() == []


# Going on


@pytest.mark.parametrize(
    "seeds", [[], pytest.param(["trainer.seeds=[0,3,5]"], marks=pytest.mark.slow)], ids=["alone", "batch"]
)
def test_a_training_goes_on_with_the_epoch_after_the_checkpoint(seeds: list[str], fake: list[str], runs: Runs) -> None:
    # In five epochs the walkers of the seeds 3 and 5 pass by home; in eight, 0 does.
    assert trilab("train", *fake, *seeds, "seed=5", "trainer.max_epochs=5", "hydra.run.dir=a") == 0
    stopped = runs()
    assert trilab("train", *fake, *seeds, "seed=5", "resume=a/checkpoints/last.ckpt", "hydra.run.dir=b") == 0
    resumed = runs()[len(stopped) :]
    assert trilab("train", *fake, *seeds, "seed=5", "hydra.run.dir=c") == 0
    straight = runs()[2 * len(stopped) :]
    resumed_last, straight_last = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in "bc")

    for before, after, never in zip(stopped, resumed, straight, strict=True):
        assert after.data.tags["trilab.resumed_from"] == before.info.run_id
        for metric in ("val/score", "train/loss"):
            assert history(before, metric) + history(after, metric) == history(never, metric)
        assert after.data.metrics["test/score"] == never.data.metrics["test/score"]
        assert artifacts(after, "checkpoints") == artifacts(never, "checkpoints")
    assert torch.equal(resumed_last["state_dict"]["weight"], straight_last["state_dict"]["weight"])
    for count in ("epoch", "global_step"):
        assert resumed_last[count] == straight_last[count]


def test_a_best_checkpoint_that_has_gone_is_told_and_another_takes_its_place(
    fake: list[str], runs: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trilab("train", *fake, "seed=5", "trainer.max_epochs=5", "hydra.run.dir=a") == 0
    Path("a/checkpoints/last.ckpt").rename("moved.ckpt")
    Path("a/checkpoints/best.ckpt").unlink()
    capfd.readouterr()
    assert trilab("train", *fake, "seed=5", "resume=moved.ckpt", "hydra.run.dir=b") == 0
    assert "best.ckpt, the best so far, is no longer there" in capfd.readouterr().err
    # From here on the walker only gets further away from home.
    assert runs()[-1].data.metrics["test/weight"] == pytest.approx(weight_after(5, 6), rel=1e-5)


def test_a_checkpoint_of_something_else_is_one_line(
    fake: list[str], runs: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trilab("train", *fake, "trainer.seeds=[0,3]", "trainer.max_epochs=1", "hydra.run.dir=a") == 0
    before = len(runs())
    whole, alone = "a/checkpoints/last.ckpt", "a/seed_3/checkpoints/best.ckpt"
    for overrides, said in (
        ([*fake, f"resume={whole}"], "its training had trainer.seeds=[0,3], and this one has trainer.seeds=null"),
        ([*fake, f"resume={whole}", "trainer.seeds=[0,1]"], "and this one has trainer.seeds=[0,1]"),
        ([*fake, f"resume={whole}", "trainer.seeds=[0,3]", "optimizer.lr=1"], "its training had optimizer.lr=0.05"),
        ([*fake, f"resume={alone}"], "it holds weights, and not the state of a training"),
        (["experiment=vision/mnist_cnn", f"resume={whole}"], "its training had model=walkers, and this one has model="),
    ):
        capfd.readouterr()
        assert trilab("train", *overrides) == 2
        assert said in capfd.readouterr().err
    assert len(runs()) == before


# The real thing

CARTPOLE = [
    "experiment=rl/dqn_cartpole",
    "accelerator=cpu",
    "tracking.system_metrics=false",
    "data.learning_starts=500",
    "data.env_steps_per_epoch=1000",
    "data.val_episodes=3",
    "data.test_episodes=3",
]


@pytest.mark.slow
def test_dqn_on_cartpole_as_one_batch(runs: Runs) -> None:
    steps = "data.total_env_steps=3000"
    assert trilab("train", *CARTPOLE, steps, "trainer.seeds=[0,1]") == 0
    parent, (_, member) = family(runs())
    assert trilab("train", *CARTPOLE, steps, "seed=1") == 0
    alone = runs()[-1]
    assert alone.data.tags["trilab.config_hash"] == member.data.tags["trilab.config_hash"]
    for metric in ("train/loss", "train/q_mean", "val/return_mean"):
        theirs, its = history(alone, metric), history(member, metric)
        assert [step for step, _ in theirs] == [step for step, _ in its]
        assert [value for _, value in theirs] == pytest.approx([value for _, value in its], rel=1e-3)
    assert trilab("evaluate", f"run={member.info.run_id}") == 0
    assert runs()[-1].data.metrics["test/return_mean"] == member.data.metrics["test/return_mean"]
    assert {"perf/env_steps_per_s", "perf/gradient_steps_per_s"} <= set(parent.data.metrics)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [[], ["trainer.seeds=[0,1]"]], ids=["alone", "batch"])
def test_dqn_on_cartpole_goes_on(seeds: list[str], runs: Runs) -> None:
    # The same schedules, ended by the number of epochs.
    budget = [*CARTPOLE, *seeds, "data.total_env_steps=4000"]
    assert trilab("train", *budget, "trainer.max_epochs=2", "hydra.run.dir=a") == 0
    assert trilab("train", *budget, "resume=a/checkpoints/last.ckpt", "hydra.run.dir=b") == 0
    assert trilab("train", *budget, "hydra.run.dir=c") == 0
    resumed, straight = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in "bc")
    assert resumed["epoch"] == straight["epoch"] == 3
    assert resumed["env_steps"] == straight["env_steps"] == 4000
    for name, tensor in straight["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], tensor), name
    found = runs()
    third = len(found) // 3
    for before, after, never in zip(found[:third], found[third : 2 * third], found[2 * third :], strict=True):
        for metric in ("val/return_mean", "train/loss"):
            assert history(before, metric) + history(after, metric) == history(never, metric)
