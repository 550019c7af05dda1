"""The report of a study, from made-up runs in a store of its own."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from trilab.errors import ConfigError, UserError
from trilab.reports.rl_runs import collect, curve, grouped
from trilab.reports.rl_study import main, report
from trilab.reports.rl_tables import comparisons, results
from trilab.reports.study import Study

STUDY = """
name: studies/made_up
baseline: dqn
overestimation: [dqn, double_dqn]
common: ["trainer.seeds=[0,1]"]
runs:
  - [experiment=rl/dqn_cartpole, model=rl/dqn]
"""
README = "# Question\n\n<!-- results -->\nof last week\n<!-- /results -->\n\nafter\n"
ENVIRONMENT = "# python 3.11.9\n# Linux-6.1\nnumpy==2.4.6\ntorch==2.13.0+cpu\n"


class Store:
    """Writes runs as trilab would."""

    def __init__(self, folder: Path) -> None:
        self.client = MlflowClient(uri(folder))
        self.experiment = self.client.create_experiment("studies/made_up", (folder / "artifacts").as_uri())

    def run(self, tags: dict[str, str], params: dict[str, str], metrics: dict[str, float], status: str) -> str:
        run_id = str(self.client.create_run(self.experiment).info.run_id)
        self.client.log_batch(
            run_id,
            [Metric(name, value, 0, 0) for name, value in metrics.items()],
            [Param(name, value) for name, value in params.items()],
            [RunTag(name, value) for name, value in {"device.name": "A chip", "git.commit": "abc", **tags}.items()],
        )
        self.client.log_text(run_id, ENVIRONMENT, "environment.txt")
        self.client.set_terminated(run_id, status)
        return run_id

    def agent(
        self,
        model: str,
        seed: int,
        test_return: float,
        environment: str = "CartPole-v1",
        curves: dict[str, list[tuple[int, float]]] | None = None,
        parent: str | None = None,
        status: str = "FINISHED",
        **tags: str,
    ) -> str:
        under = {"mlflow.parentRunId": parent} if parent else {}
        run_id = self.run(
            {
                "trilab.model": f"rl/{model}",
                **under,
                **{name.replace("__", "."): value for name, value in tags.items()},
            },
            {"data.env_id": environment, "seed": str(seed)},
            {"test/return_mean": test_return, **({} if parent else {"perf/env_steps_per_s": 15000.0})},
            status,
        )
        points = [Metric(name, y, 0, x) for name, curve in (curves or {}).items() for x, y in curve]
        if points:
            self.client.log_batch(run_id, points)
        self.client.log_text(run_id, json.dumps({"goal": {"threshold": 475.0}}), "summary.json")
        return run_id

    def batch(self, model: str, returns: list[float], environment: str = "CartPole-v1", bias: float = 0.0) -> None:
        """A batch of seeds, whose curves rise to the given returns."""
        tags = {"trilab.model": f"rl/{model}"}
        parent = self.run(
            tags, {"data.env_id": environment, "seed": "1"}, {"perf/env_steps_per_s": 40000.0}, "FINISHED"
        )
        for seed, final in enumerate(returns):
            share = np.linspace(0.1, 1.0, 10)
            curves = {
                "val/return_mean": [(int(20000 * 10 * s), float(final * s)) for s in share],
                "val/overestimation": [(int(20000 * 10 * s), float(bias + seed + 5 * s)) for s in share],
            }
            self.agent(model, seed, final, environment, curves, parent)


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return Store(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made_up"
    folder.mkdir()
    (folder / "study.yaml").write_text(STUDY)
    (folder / "README.md").write_text(README)
    return folder


def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_lone_runs_and_children_count_and_nothing_else(store: Store) -> None:
    store.batch("dqn", [500.0, 400.0])
    store.agent("dqn", 2, 300.0)
    store.agent("dqn", 3, 1.0, status="FAILED")
    store.agent("dqn", 0, 2.0, trilab__source_run="x")  # a mere test of an earlier run
    agents = grouped(collect(store.client, "studies/made_up"), ["dqn"])["CartPole-v1"]["dqn"]
    assert [(a.seed, a.test_return, a.agents, a.env_steps_per_s) for a in agents] == [
        (0, 500.0, 2, 40000.0),
        (1, 400.0, 2, 40000.0),
        (2, 300.0, 1, 15000.0),
    ]
    assert agents[0].threshold == 475.0


def test_one_model_under_several_labels_makes_several_rows(store: Store) -> None:
    store.agent("dqn", 0, 100.0)
    store.agent("dqn", 0, 200.0, study_label="dqn + 3 steps")
    found = grouped(collect(store.client, "studies/made_up"), ["dqn", "dqn + 3 steps"])["CartPole-v1"]
    assert {model: agents[0].test_return for model, agents in found.items()} == {"dqn": 100.0, "dqn + 3 steps": 200.0}


def test_of_two_runs_of_one_agent_the_later_counts(store: Store) -> None:
    store.agent("dqn", 0, 100.0)
    store.agent("dqn", 0, 200.0)
    assert [agent.test_return for agent in collect(store.client, "studies/made_up")] == [200.0]


def test_curves_at_different_steps_meet_on_the_shortest(store: Store) -> None:
    store.agent("dqn", 0, 1.0, curves={"val/return_mean": [(0, 0.0), (10, 10.0), (20, 0.0)]})
    store.agent("dqn", 1, 1.0, curves={"val/return_mean": [(0, 2.0), (20, 6.0)]})
    agents = grouped(collect(store.client, "studies/made_up"), ["dqn"])["CartPole-v1"]["dqn"]
    found = curve(agents, "val/return_mean")
    assert found is not None
    assert found[0].tolist() == [0.0, 20.0]
    assert found[1].tolist() == [[0.0, 0.0], [2.0, 6.0]]
    assert curve(agents, "val/overestimation") is None


def test_the_tables_by_hand(store: Store) -> None:
    store.batch("dqn", [500.0, 400.0, 300.0, 500.0], bias=4.0)
    store.batch("double_dqn", [500.0, 500.0, 500.0, 500.0], bias=1.0)
    groups = grouped(collect(store.client, "studies/made_up"), ["dqn"])
    dqn, double = results(groups)
    assert (dqn["model"], dqn["seeds"], dqn["solved"], dqn["threshold"]) == ("dqn", "4", "2 of 4", "475")
    assert dqn["test return, IQM [95% CI]"].startswith("450 [")  # of 300 400 500 500 the middle two
    assert (dqn["median"], dqn["min to max"], dqn["env steps/s"]) == ("450", "300 to 500", "40,000")
    # Seeds 0 and 3 reach 475 at the last validation, the others never.
    assert dqn["env steps to it, median"] == "not reached"
    assert double["env steps to it, median"] == "200,000"
    # Bias 4, the seed (middle two: 1, 2) and 5 times the mean share of 0.55.
    assert dqn["overestimation, IQM [95% CI]"].startswith("8.25 [")
    assert dqn["return over the training, IQM [95% CI]"].startswith("247.5 [")  # a mean share of 0.55 of 450
    [row] = comparisons(groups, "dqn")
    # By seeds 0, 100, 200 and 0 more at the end, and 0.55 of that over the training; the middle two are 0 and 55.
    assert row["return over the training less dqn's, IQM [95% CI]"].startswith("27.5 [")
    assert row["overestimation less dqn's, IQM [95% CI]"] == "-3 [-3, -3]"  # in pairs nothing else differs
    assert row["P(better than dqn) [95% CI]"].startswith("0.75 [")  # 8 of 16 pairs won, 8 drawn
    assert row["seeds"] == "the same"


def test_all_environments_together(store: Store) -> None:
    for environment in ("CartPole-v1", "Acrobot-v1"):
        store.batch("dqn", [1.0, 2.0], environment)
        store.batch("rainbow", [3.0, 4.0], environment)
    last = comparisons(grouped(collect(store.client, "studies/made_up"), ["dqn"]), "dqn")[-1]
    assert (last["environment"], last["P(better than dqn) [95% CI]"]) == ("all", "1 [1, 1]")


def test_the_report_writes_its_files_and_only_its_block(store: Store, folder: Path, tmp_path: Path) -> None:
    store.batch("dqn", [500.0, 400.0])
    store.batch("double_dqn", [500.0, 450.0])
    written = report(folder, uri(tmp_path))
    assert {path.name for path in written} == {
        *("table.md", "table.csv", "machine.json", "README.md"),
        *("learning_curves.png", "final_scores.png", "overestimation.png"),
    }
    assert all(path.is_file() for path in written)
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# Question\n\n<!-- results -->\n\n| environment | model |")
    assert readme.endswith("<!-- /results -->\n\nafter\n")
    assert "last week" not in readme
    assert "![overestimation](results/overestimation.png)" in readme
    assert "4 agents" in readme
    facts = json.loads((folder / "results" / "machine.json").read_text())
    assert (facts["torch"], facts["python"], facts["device.name"]) == ("2.13.0+cpu", "3.11.9", "A chip")
    rows = list(csv.DictReader((folder / "results" / "table.csv").open()))
    assert [rows[0][name] for name in ("model", "seed", "test_return_mean")] == ["double_dqn", "0", "500.0"]
    before = readme
    report(folder, uri(tmp_path))
    assert (folder / "README.md").read_text() == before


def test_what_is_missing_is_said(
    store: Store, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="no finished run"):
        report(folder, uri(tmp_path))
    assert main([str(folder), "--uri", f"sqlite:///{tmp_path}/other.db"]) == 2
    assert "There is no store" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2
    (folder / "README.md").write_text("# Question\n")
    assert main([str(folder), "--uri", uri(tmp_path)]) == 2
    assert "<!-- results -->" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("baseline:", "base_line:", "Did you mean 'baseline'?"),
        ("baseline: dqn\n", "", "'baseline' is missing"),
        ('["trainer.seeds=[0,1]"]', "[[1, 2]]", "is not a text"),
        ("name:", "name: [", "study.yaml"),
    ],
)
def test_a_wrong_study_gets_one_line(folder: Path, old: str, new: str, said: str) -> None:
    (folder / "study.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises(ConfigError) as raised:
        Study.read(folder)
    assert said in str(raised.value)


@pytest.mark.slow
def test_a_study_runs_what_is_missing(empty_store: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    small = ["data.total_env_steps=400", "data.env_steps_per_epoch=200", "data.env_steps_per_iteration=100"]
    small += ["data.learning_starts=100", "data.val_episodes=2", "data.test_episodes=2", "accelerator=cpu"]
    text = STUDY.replace(
        '["trainer.seeds=[0,1]"]', json.dumps(["trainer.seeds=[0,1]", f"paths.outputs={tmp_path}", *small])
    )
    (folder / "study.yaml").write_text(
        text.replace(
            "model=rl/dqn]", "model=rl/dqn]\n  - [experiment=rl/dqn_cartpole, model=rl/double_dqn, model.double=true]"
        )
    )
    report(folder, uri(tmp_path), run=True)
    client = MlflowClient(uri(tmp_path))
    [experiment] = [e for e in client.search_experiments() if e.name == "studies/made_up"]
    assert len(client.search_runs([experiment.experiment_id])) == 2 * 3  # a parent and two agents of each
    report(folder, uri(tmp_path), run=True)
    assert len(client.search_runs([experiment.experiment_id])) == 2 * 3
    assert len(list(csv.DictReader((folder / "results" / "table.csv").open()))) == 4
