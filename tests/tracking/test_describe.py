"""Descriptions of runs, sweeps and experiments, and who may change them."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from patience import send_all

from trilab.config.compose import compose
from trilab.config.job import Job
from trilab.sweeps.outcome import Outcome
from trilab.sweeps.sweep import description
from trilab.tracking.describe import LONGEST, NOTE, beginning, ended, finished, renewed, running
from trilab.tracking.pages import VIEW, experiment_tags, runs_page
from trilab.tracking.recovery import end_orphans
from trilab.tracking.run import open_run
from trilab.tracking.settings import Tracking

TAGS = {
    "precision.requested": "16-mixed",
    "precision.effective": "bf16-mixed",
    "accelerator.effective": "cpu",
    "device.name": "a processor",
    "runtime.threads": "2",
    "mlflow.source.name": "trilab train experiment=recsys/deepfm_synthetic seed=7",
}


def job(*overrides: str) -> Job:
    config = compose([*overrides, "tracking.experiment_name=x"])
    choices = {"experiment": "recsys/deepfm_synthetic", "model": "recsys/deepfm", "data": "recsys/synthetic"}
    return Job.of(config, choices, list(overrides))


def test_a_run_says_what_it_is_and_how_to_have_it_again() -> None:
    note = beginning(job("experiment=recsys/deepfm_synthetic", "seed=7"), TAGS, "0123abc")
    lines = note.splitlines()
    assert lines[0].startswith("**Running** since 2")
    assert "DeepFM on a planted click log" in note
    assert "- **Experiment** `recsys/deepfm_synthetic`, model `recsys/deepfm`, seed 7" in lines
    assert "Click log drawn from a planted factorization machine" in note
    assert "- **Computed** in bf16-mixed (16-mixed was asked for) on cpu (a processor), 2 threads" in lines
    assert any(line.startswith("- **Goal** auc >= 0.86 (") for line in lines)
    alone = beginning(job("experiment=recsys/deepfm_synthetic"), {**TAGS, "runtime.threads": "1"}, "0123abc")
    assert "(a processor), 1 thread\n" in alone
    assert lines[-2:] == ["    trilab reproduce 0123abc", f"    {TAGS['mlflow.source.name']}"]


def test_a_test_of_a_checkpoint_has_its_command_alone() -> None:
    note = beginning(job("experiment=recsys/deepfm_synthetic", "fit=false"), TAGS, "0123abc")
    assert "trilab reproduce" not in note
    assert note.endswith(f"    {TAGS['mlflow.source.name']}")


def test_only_a_first_line_of_trilabs_own_is_renewed() -> None:
    note = beginning(job("experiment=recsys/deepfm_synthetic"), TAGS, "0123abc") + "\n\nmine"
    for line in (finished("auc 0.9", "1 s"), ended("FAILED", "ValueError: a\nb"), ended("KILLED", "x"), running(True)):
        new = renewed(note, line)
        assert new.splitlines()[0] == line
        assert new.splitlines()[1:] == note.splitlines()[1:]
        note = new  # each is itself one that may be renewed
    for theirs in ("", "mine", "mine\n**Running** since 2"):
        assert renewed(theirs, running()) == theirs


def _settings(workdir: Path, **tags: str) -> Tracking:
    return Tracking("t", uri=f"sqlite:///{workdir}/mlflow.db", system_metrics=False, tags=tags)


def _note(workdir: Path, run_id: str) -> str:
    return MlflowClient(f"sqlite:///{workdir}/mlflow.db").get_run(run_id).data.tags.get(NOTE, "")


def test_a_failed_run_says_how_it_ended_and_what_people_wrote_stays(workdir: Path) -> None:
    def fail() -> str:
        with open_run(_settings(workdir), "r", {}) as run:
            run.set_tags({NOTE: f"{running()}\n\nof {run.id}"})
            assert run.flush()
            client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
            client.set_tag(run.id, NOTE, client.get_run(run.id).data.tags[NOTE] + "\n\nseen by me")
            raise ValueError("not\nso")

    with pytest.raises(ValueError):
        fail()
    [run] = MlflowClient(f"sqlite:///{workdir}/mlflow.db").search_runs(["1"])
    assert run.data.tags[NOTE] == f"**FAILED** ValueError: not so\n\nof {run.info.run_id}\n\nseen by me"


def test_a_users_own_description_is_left_alone(workdir: Path) -> None:
    with open_run(_settings(workdir, **{NOTE: "mine"}), "r", {}) as run:
        run.outbox.headline(finished("auc 1", "1 s"))
    assert _note(workdir, run.id) == "mine"


def test_an_orphan_says_that_its_process_is_gone(workdir: Path) -> None:
    from trilab.tracking.process import process_tags

    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    gone = {**process_tags(), "process.start": "1"}
    described, bare = (
        client.create_run("0", tags=tags).info.run_id for tags in ({**gone, NOTE: f"{running()}\n\nit"}, gone)
    )
    end_orphans(client)
    assert _note(workdir, described).startswith("**KILLED** process ")
    assert _note(workdir, described).endswith("ended without a word\n\nit")
    assert _note(workdir, bare) == ""


def test_secrets_do_not_reach_a_description(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2hunter2")
    with open_run(_settings(workdir), "r", {}) as run:
        run.set_tags({NOTE: f"{running()}\n\n    trilab train tracking.uri=https://me:pw@host hunter2hunter2"})
        run.outbox.headline(ended("FAILED", "cannot reach https://me:pw@host with hunter2hunter2"))
    note = _note(workdir, run.id)
    assert "***@host" in note.splitlines()[0]
    assert "***@host" in note.splitlines()[2]
    assert "pw@" not in note
    assert "hunter2" not in note


def test_a_run_that_began_in_the_spool_names_itself_by_the_stores_id(workdir: Path) -> None:
    import sqlite3

    with sqlite3.connect(workdir / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")  # the store does not answer
        settings = Tracking("t", uri=f"sqlite:///{workdir}/mlflow.db", system_metrics=False, wait_s=0.0)
        with open_run(settings, "r", {}) as run:
            assert run.id.startswith("local-")
            run.set_tags({NOTE: f"{running()}\n\n    trilab reproduce {run.id}"})
            run.outbox.headline(finished("auc 0.9", "1 s"))
        other.execute("ROLLBACK")
    send_all()
    [found] = MlflowClient(f"sqlite:///{workdir}/mlflow.db").search_runs(["1"])
    assert found.data.tags[NOTE] == f"**Result** auc 0.9 · 1 s\n\n    trilab reproduce {found.info.run_id}"


def _outcome(number: int, result: float) -> Outcome:
    return Outcome(
        number, f"seed={number}", f"h{number}", [], "FINISHED", f"{number:032x}", "test/auc", "max", result,
        shown=f"test/auc {result:.5g}", speed="1,000 train samples/s",
    )  # fmt: skip


def test_a_sweep_names_its_best_first_and_links_its_runs() -> None:
    outcomes = [_outcome(0, 0.5), _outcome(1, 0.75), Outcome(2, "seed=2", "h2", [], "FAILED", shown="it | broke")]
    lines = description("mine", outcomes, outcomes[1], "4").splitlines()
    assert lines[0] == "**Best** seed=1: test/auc 0.75 · 2 of 3 runs finished, 1 failed"
    assert f"| [seed=1](#/experiments/4/runs/{1:032x}) | &emsp;test/auc 0.75 | &emsp;1,000 train samples/s |" in lines
    assert "| seed=2 | &emsp;failed: it \\| broke | &emsp; |" in lines
    assert "sweep.name=mine" in lines[-1]


def test_the_table_of_a_long_sweep_fits_into_a_tag_in_whole_rows() -> None:
    outcomes = [_outcome(number, number / 500) for number in range(500)]
    note = description("mine", outcomes, outcomes[-1], "4")
    rows = [line for line in note.splitlines() if line.startswith("| [")]
    assert len(note) <= LONGEST
    assert all(row.endswith("/s |") for row in rows)
    assert f"{500 - len(rows)} more are in the runs below" in note
    assert len(rows) > 30


def test_an_experiment_says_what_its_x_axis_is_and_has_a_view_of_its_own() -> None:
    tags = experiment_tags("rl/dqn_cartpole")
    assert "environment steps" in tags[NOTE]
    assert "DQN on CartPole-v1" in tags[NOTE]
    view = json.loads(tags[f"mlflow.sharedViewState.{VIEW}"])
    assert view["selectedColumns"][0] == "metrics.`test/return_mean`"
    assert view["columnOrder"][:2] == ["attributes.`Run Name`", "runDateAndNestInfo"]
    assert set(view["columnOrder"]) == set(view["columnWidths"]) >= set(view["selectedColumns"])
    assert view["columnWidths"]["metrics.`perf/env_steps_per_s`"] > view["columnWidths"]["params.`seed`"]
    assert [section["name"] for section in view["compareRunSections"]][:2] == ["val", "train"]
    assert [chart["metricKey"] for chart in view["compareRunCharts"]] == ["val/return_mean", "test/return_mean"]
    kind = "workflowType=machine_learning"
    assert runs_page("http://h", "3", tags) == f"http://h/#/experiments/3/runs?viewStateShareKey={VIEW}&{kind}"
    assert runs_page("http://h", "3", {}) == f"http://h/#/experiments/3/runs?{kind}"
    other = experiment_tags("my own")
    assert "trilab.x_axis" in other[NOTE]
    assert "tags.`trilab.model`" in other[f"mlflow.sharedViewState.{VIEW}"]
