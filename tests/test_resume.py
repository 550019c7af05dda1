"""A run that is gone on with in its own MLflow run, against one that was never stopped."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from mlflow import MlflowClient
from mlflow.entities import Run
from test_lifecycle import start, wait_for
from test_train import artifacts, trilab

from trilab.models.vision.classifier import Classifier
from trilab.tracking.lookup import histories

Runs = Callable[[], list[Run]]
BATCHES, EPOCHS = 6, 4
TRAIN = ["experiment=vision/mnist_cnn", "model=vision/mlp", *SMALL["vision"], f"trainer.max_epochs={EPOCHS}",
         f"trainer.limit_train_batches={BATCHES}", "trainer.log_every_n_steps=2", "trainer.limit_val_batches=1",
         "tracking.flush_s=0.001", "tracking.system_metrics=false", "accelerator.threads=1"]  # fmt: skip
COMPUTED = ("train/", "val/", "test/")


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")


def points(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Every point of what training computes, in the order of steps."""
    found = histories(client(), run.info.run_id)
    return {
        name: sorted((point.step, point.value) for point in history)
        for name, history in found.items()
        if name.startswith(COMPUTED)
    }


@pytest.fixture
def stops_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the training of an image classifier fail once, in its n-th step."""
    real, steps = Classifier.training_step, [0]

    def plan(at: int) -> None:
        steps[0] = 0

        def training_step(self: Classifier, batch: Any, batch_idx: int) -> Any:
            steps[0] += 1
            if steps[0] == at:
                raise RuntimeError("the power went")
            return real(self, batch, batch_idx)

        monkeypatch.setattr(Classifier, "training_step", training_step)

    return plan


@pytest.mark.slow
def test_it_ends_as_if_it_had_never_stopped(stops_in, runs: Runs, workdir: Path):
    assert trilab("train", *TRAIN, "paths.outputs=straight") == 0
    [straight] = runs()
    stops_in(2 * BATCHES + 5)  # after two epochs, and two points of the third
    assert trilab("train", *TRAIN, "paths.outputs=stopped") == 1
    stopped = runs()[-1]
    assert stopped.info.status == "FAILED"
    early = points(stopped)
    assert early["train/loss"][-1][0] > 2 * BATCHES, "no point beyond the checkpoint: the test shows nothing"

    assert trilab("resume", stopped.info.run_id) == 0
    assert len(runs()) == 2
    resumed = client().get_run(stopped.info.run_id)
    assert resumed.info.status == "FINISHED"
    assert points(resumed) == points(straight)  # neither gaps nor points that stand there twice
    assert resumed.data.tags["trilab.resumes"] == "1"
    assert "trilab.end" not in resumed.data.tags
    assert artifacts(resumed, "checkpoints") == {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}


@pytest.mark.slow
def test_the_uploaded_checkpoint_serves_where_the_folder_is_gone(stops_in, runs: Runs, workdir: Path):
    stops_in(BATCHES + 2)
    assert trilab("train", *TRAIN) == 1
    [stopped] = runs()
    for path in sorted((workdir / "outputs").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (workdir / "outputs").rmdir()
    assert trilab("resume", stopped.info.run_id) == 0
    assert client().get_run(stopped.info.run_id).info.status == "FINISHED"
    stops_in(-1)
    assert trilab("train", *TRAIN, "paths.outputs=straight") == 0
    assert points(runs()[0]) == points(runs()[1])


@pytest.mark.slow
def test_a_process_that_was_killed_outright(runs: Runs, workdir: Path):
    long = ["experiment=rl/double_dqn_cartpole", "data.total_env_steps=6000", "data.env_steps_per_epoch=1000",
            "data.val_episodes=2", "data.test_episodes=2", "data.eval_envs=2", "accelerator.threads=1",
            "tracking.system_metrics=false", "tracking.flush_s=0.001"]  # fmt: skip
    process = start(workdir, *long)
    wait_for(lambda: any((workdir / "outputs").rglob("last.ckpt")) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    [killed] = runs()
    assert killed.info.status == "RUNNING"
    assert trilab("resume", killed.info.run_id) == 0
    [resumed] = runs()
    assert resumed.info.status == "FINISHED"
    assert trilab("train", *long, "paths.outputs=straight") == 0
    assert points(resumed) == points(runs()[-1])


@pytest.mark.slow
def test_what_cannot_be_gone_on_with_is_said_in_one_line(stops_in, runs: Runs, workdir: Path, capsys):
    stops_in(2)
    assert trilab("train", *TRAIN) == 1
    stops_in(-1)
    assert trilab("train", *TRAIN, "trainer.max_epochs=1") == 0
    early, finished = (run.info.run_id for run in runs())
    foreign = client().create_run("0", run_name="of another tool").info.run_id
    running = client().create_run("0", tags=runs()[0].data.tags).info.run_id
    for name in ("config.yaml", "overrides.yaml"):
        client().log_artifact(running, client().download_artifacts(early, name, str(workdir)))
    capsys.readouterr()
    for arguments, code, message in (
        ([], 2, "resume needs one run: trilab resume RUN_ID."),
        (["0" * 32], 2, "no such run"),
        ([foreign], 1, "was not made by trilab train: it has no tag trilab.experiment"),
        ([early], 1, "(FAILED) has no last checkpoint"),
        ([finished], 2, "is FINISHED: there is nothing to go on with."),
        ([finished, "trainer.max_epochs=9"], 2, "trainer.max_epochs=9: a run goes on with the configuration"),
        ([early, "tracking.uri=sqlite:///nowhere.db"], 2, "There is no store"),
    ):
        assert trilab("resume", *arguments) == code
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1, error
    assert client().get_run(finished).info.status == "FINISHED"
