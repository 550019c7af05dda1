"""Runs with known numbers, written into a store as trilab would."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

PARAMS = {"goal.metric": "accuracy", "goal.mode": "max", "optimizer.lr": "0.001", "trainer.seeds": "null"}
TAGS = {
    "trilab.model": "vision/mnist_cnn",
    "trilab.data": "vision/mnist",
    "trilab.experiment": "vision/mnist_cnn",
    "trilab.x_axis": "optimizer_steps",
    "device.name": "A chip",
    "accelerator.effective": "cpu",
    "git.commit": "abc",
}


class Store:
    """A store in a folder, with one MLflow experiment in it."""

    def __init__(self, folder: Path, experiment: str = "made/up") -> None:
        self.client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        self.folder, self.count = folder, 0
        self.experiment = self.client.create_experiment(experiment, (folder / "mlartifacts").as_uri())

    def run(
        self,
        seed: int,
        value: float | None,
        precision: str = "fp32",
        fit_s: float | None = 10.0,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        curve: Sequence[tuple[int, float, float]] = (),
        status: str = "FINISHED",
        start_s: float | None = None,
        end_s: float | None = None,
        environment: bool = False,
    ) -> str:
        """Writes a run, and returns its id.

        Args:
            seed: its own.
            value: of test/accuracy; None where it was not tested.
            precision: asked for.
            fit_s: seconds of its fit.
            params: further ones.
            tags: likewise.
            metrics: likewise.
            curve: of val/accuracy: step, seconds since the start, value.
            status: how it ended.
            start_s: when, in seconds since 1970; None for after the one before.
            end_s: when its fit was over, in seconds since its start; None for a fit from the start on.
            environment: with the list of its packages.
        """
        self.count += 1
        start = round(1000 * (1000.0 + 100 * self.count if start_s is None else start_s))
        run_id = str(self.client.create_run(self.experiment, start, run_name=f"seed={seed}").info.run_id)
        values = {"test/accuracy": value, "perf/fit_s": fit_s, "perf/train_samples_per_s": 500.0, **(metrics or {})}
        end = start + round(1000 * (end_s or fit_s or 1.0))
        points = [Metric(name, own, end, 0) for name, own in values.items() if own is not None]
        points += [Metric("val/accuracy", own, start + round(1000 * seconds), step) for step, seconds, own in curve]
        all_params = {
            **PARAMS,
            "seed": str(seed),
            "precision.name": precision,
            "data.seed": str(seed),
            **(params or {}),
        }
        all_tags = {**TAGS, "precision.requested": precision, "precision.effective": precision, **(tags or {})}
        self.client.log_batch(
            run_id,
            points,
            [Param(name, own) for name, own in all_params.items()],
            [RunTag(name, own) for name, own in all_tags.items()],
        )
        if environment:
            self.client.log_text(run_id, "# python 3.11.9\n# Linux-6.1\ntorch==2.13.0+cpu\n", "environment.txt")
        self.client.set_terminated(run_id, status, end)
        return run_id

    def sweep(self, name: str, swept: Mapping[str, str], status: str = "FINISHED") -> str:
        """A sweep's own run."""
        run_id = str(self.client.create_run(self.experiment, run_name=name).info.run_id)
        tags = {"trilab.kind": "sweep", "trilab.sweep": name, "mlflow.note.content": "what the sweep says"}
        tags |= {f"swept.{key}": text for key, text in swept.items()}
        self.client.log_batch(run_id, tags=[RunTag(key, text) for key, text in tags.items()])
        self.client.set_terminated(run_id, status)
        return run_id

    def precisions(self, sweep: str | None = None, name: str = "precisions") -> dict[str, list[str]]:
        """Five seeds in fp32 and bf16-mixed: 0.90 to 0.94 and 0.002 less, with a fit of 10 s and of 8 s."""
        under = {"trilab.sweep": name, "mlflow.parentRunId": sweep} if sweep else {}
        curves = {
            seed: [(step, step / 10, 0.5 + step / 100 + seed / 1000) for step in range(0, 50, 10)] for seed in range(5)
        }
        return {
            precision: [
                self.run(seed, 0.9 + seed / 100 - loss, precision, fit_s, tags=under, curve=curves[seed])
                for seed in range(5)
            ]
            for precision, loss, fit_s in (("fp32", 0.0, 10.0), ("bf16-mixed", 0.002, 8.0))
        }
