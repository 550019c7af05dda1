"""The report of a study of recommenders, and the runs it makes: made-up ones in a store of their own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from trilab.errors import ConfigError, UserError
from trilab.reports import launch, recsys_tables
from trilab.reports.launch import identify, run_study
from trilab.reports.page import markdown
from trilab.reports.recsys_runs import collect, grouped
from trilab.reports.recsys_study import main, report
from trilab.reports.study import Study, StudyRun
from trilab.tracking.process import process_tags

README = "# Question\n\n<!-- results -->\nof last week\n<!-- /results -->\n\nafter\n"
STUDY = {
    "name": "studies/made_up",
    "baseline": "mf",
    "common": [],
    "runs": [["experiment=recsys/mf_movielens_100k"], ["experiment=recsys/fm_movielens_100k"]],
    "seeds": [0, 1],
    "metrics": ["hit_rate_10", "mrr"],
}
NCF = {
    **STUDY,
    "baseline": "neumf",
    "by": ["model", "factors"],
    "metrics": ["hit_rate_10"],
    "seeds": [1],
    "runs": [["model=recsys/neumf"]],
    "published": [
        {"model": "neumf", "factors": 8, "hit_rate_10": 0.688, "source": "a paper"},
        {"model": "neumf, pretrained", "factors": 8, "hit_rate_10": 0.684},
        {"model": "eals", "hit_rate_10": 0.6},
    ],
}


class Store:
    """Writes runs as trilab would."""

    def __init__(self, folder: Path) -> None:
        self.client = MlflowClient(uri(folder))
        self.experiment = self.client.create_experiment("studies/made_up", (folder / "artifacts").as_uri())

    def run(
        self,
        model: str,
        seed: int,
        status: str = "FINISHED",
        label: str = "",
        factors: str = "",
        data: str = "movielens_100k",
        **metrics,
    ) -> str:
        run_id = str(self.client.create_run(self.experiment).info.run_id)
        tags = {
            "trilab.model": f"recsys/{model}",
            "trilab.data": f"recsys/{data}",
            "device.name": "A chip",
            "git.commit": "abc",
        }
        tags |= {"trilab.experiment": f"recsys/{model}_movielens_100k"} | ({"study_label": label} if label else {})
        params = {"seed": str(seed)} | ({"model.network.factors": factors} if factors else {})
        values = {f"test/{name}": value for name, value in metrics.items()} if metrics else {"val/mrr": 0.1}
        values |= {"perf/train_samples_per_s": 1000.0 * (seed + 1), "perf/fit_s": 10.0}
        self.client.log_batch(
            run_id,
            [Metric(name, value, 0, 0) for name, value in values.items()],
            [Param(name, value) for name, value in params.items()],
            [RunTag(name, value) for name, value in tags.items()],
        )
        self.client.log_text(run_id, "# python 3.11.9\n# Linux-6.1\ntorch==2.13.0+cpu\n", "environment.txt")
        self.client.set_terminated(run_id, status)
        return run_id


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return Store(tmp_path)


def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def write(tmp_path: Path, content: dict) -> Path:
    folder = tmp_path / "made_up"
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    (folder / "README.md").write_text(README)
    return folder


# The report


def test_the_tables_by_hand(store: Store, tmp_path: Path) -> None:
    for seed, (mf, fm) in enumerate([(0.60, 0.62), (0.64, 0.66), (0.62, 0.64)]):
        store.run("fm", seed, hit_rate_10=fm, mrr=0.3)
        store.run("mf", seed, hit_rate_10=mf, mrr=0.2)
    store.run("fm", 7, hit_rate_10=0.64, mrr=0.3)  # a seed that the baseline does not have
    study = Study.read(write(tmp_path, STUDY))
    groups = grouped(collect(store.client, study), study.models)
    mf, fm = recsys_tables.results(groups, study)
    assert (mf["model"], mf["seeds"], fm["model"], fm["seeds"]) == ("mf", "3", "fm", "4")
    assert mf["hit_rate_10, mean [95% CI]"].startswith("0.6200 [0.60")
    assert mf["mrr, mean [95% CI]"] == "0.2000 [0.2000, 0.2000]"
    assert (mf["train samples/s, median"], mf["fit, s, median"]) == ("2,000", "10.0")
    [row] = recsys_tables.comparisons(groups, study)
    assert row["hit_rate_10 less mf's, mean [95% CI]"] == "+0.0200 [+0.0200, +0.0200]"  # in pairs nothing else differs
    assert (row["model"], row["pairs of one seed"]) == ("fm", "3")


def test_only_finished_runs_with_a_test_count_and_of_two_the_later(store: Store, tmp_path: Path) -> None:
    study = Study.read(write(tmp_path, STUDY))
    store.run("mf", 0, hit_rate_10=0.1, mrr=0.1)
    store.run("mf", 0, hit_rate_10=0.2, mrr=0.1)
    store.run("mf", 1, status="FAILED", hit_rate_10=0.3, mrr=0.1)
    store.run("mf", 2)
    test_alone = store.run("mf", 3, hit_rate_10=0.4, mrr=0.1)
    store.client.set_tag(test_alone, "trilab.source_run", "x")
    assert [(r.seed, r.metrics["hit_rate_10"]) for r in collect(store.client, study)] == [(0, 0.2)]


def test_rows_by_a_parameter_with_labels_and_published_results(store: Store, tmp_path: Path) -> None:
    store.run("neumf", 1, factors="16", hit_rate_10=0.70)
    store.run("neumf", 1, factors="8", hit_rate_10=0.69)
    store.run("neumf", 1, factors="8", label="neumf, pretrained", hit_rate_10=0.68)
    store.run("mf", 1, hit_rate_10=0.73)
    study = Study.read(write(tmp_path, NCF))
    groups = grouped(collect(store.client, study), study.models)
    rows = recsys_tables.results(groups, study)
    table = [(r["model"], r["factors"], r["hit_rate_10"], r["published hit_rate_10"], r["source"]) for r in rows]
    assert table == [
        ("neumf", "8", "0.6900", "0.688", "a paper"),
        ("neumf", "16", "0.7000", "", ""),
        ("neumf, pretrained", "8", "0.6800", "0.684", ""),
        ("mf", "", "0.7300", "", ""),
        ("eals", "", "", "0.6", ""),
    ]
    [row] = recsys_tables.comparisons(groups, study)  # where the baseline has the same factors
    assert (row["model"], row["hit_rate_10 less neumf's"]) == ("neumf, pretrained", "-0.0100")
    assert "95%" not in markdown(rows)  # of one seed there is no interval over seeds


def test_the_report_writes_its_files_and_only_its_block(store: Store, tmp_path: Path) -> None:
    store.run("neumf", 1, factors="8", hit_rate_10=0.69)
    store.run("neumf", 1, factors="16", hit_rate_10=0.70)
    store.run("mf", 1, hit_rate_10=0.73)
    folder = write(tmp_path, NCF)
    written = report(folder, uri(tmp_path))
    assert {path.name for path in written} == {
        *("table.md", "table.csv", "machine.json", "README.md", "metrics.png", "curves.png")
    }
    assert all(path.stat().st_size for path in written)
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# Question\n\n<!-- results -->\n\n| model | factors | seeds |")
    assert readme.endswith("<!-- /results -->\n\nafter\n")
    assert "of last week" not in readme
    assert "3 runs" in readme
    assert "![curves](results/curves.png)" in readme
    facts = json.loads((folder / "results" / "machine.json").read_text())
    assert (facts["torch"], facts["python"], facts["device.name"], facts["runs"]) == (
        "2.13.0+cpu", "3.11.9", "A chip", 3,
    )  # fmt: skip
    rows = list(csv.DictReader((folder / "results" / "table.csv").open()))
    assert [rows[0][name] for name in ("model", "factors", "seed", "hit_rate_10")] == ["neumf", "8", "1", "0.69"]
    report(folder, uri(tmp_path))
    assert (folder / "README.md").read_text() == readme


def test_each_data_set_has_tables_of_its_own_metrics_and_a_baseline_that_was_run_on_it(
    store: Store, tmp_path: Path
) -> None:
    for seed in (0, 1):
        store.run("fm", seed, data="movielens_100k", hit_rate_10=0.6 + seed / 10, mrr=0.3)
        store.run("mf", seed, data="movielens_100k", hit_rate_10=0.5 + seed / 10, mrr=0.2)
        store.run("dlrm", seed, data="synthetic", auc=0.86 + seed / 100)
        store.run("fm", seed, data="synthetic", auc=0.87 + seed / 100)
    runs = [[f"experiment=recsys/{name}_movielens_100k"] for name in ("mf", "fm", "dlrm")]
    folder = write(tmp_path, {**STUDY, "metrics": ["hit_rate_10", "auc"], "runs": runs})
    written = {path.name for path in report(folder, uri(tmp_path))}
    assert {"metrics_movielens_100k.png", "metrics_synthetic.png"} <= written
    table = (folder / "results" / "table.md").read_text()
    assert "nan" not in table
    ranked, against_mf, clicked, against_fm = table.strip().split("\n\n")
    assert ranked.startswith("| data | model | seeds | hit_rate_10, mean")
    assert "auc" not in ranked
    assert [line.split(" | ")[1] for line in clicked.splitlines()[2:]] == ["fm", "dlrm"]  # as the study has them
    assert "| movielens_100k | fm | 2 | +0.1000 [+0.1000, +0.1000] |" in against_mf
    assert "auc less fm's" in against_fm
    assert "| synthetic | dlrm | 2 | -0.0100 [-0.0100, -0.0100] |" in against_fm
    rows = list(csv.DictReader((folder / "results" / "table.csv").open()))
    assert [row["auc"] for row in rows if row["data"] == "movielens_100k"] == [""] * 4


def test_published_results_are_of_one_data_set(store: Store, tmp_path: Path) -> None:
    store.run("neumf", 1, factors="8", hit_rate_10=0.69)
    store.run("neumf", 1, factors="8", data="movielens_1m", hit_rate_10=0.69)
    with pytest.raises(UserError, match="does not say of which data set"):
        report(write(tmp_path, NCF), uri(tmp_path))


def test_what_is_missing_is_said(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, STUDY)
    with pytest.raises(UserError, match="no finished run"):
        report(folder, uri(tmp_path))
    store.run("mf", 0, hit_rate_10=0.5, mmr=0.5)
    assert main([str(folder), "--uri", uri(tmp_path)]) == 1
    assert "no run of 'studies/made_up' has test/mrr. Did you mean 'mmr'?" in capsys.readouterr().err
    assert main([str(folder), "--uri", uri(tmp_path), "--jobs", "0"]) == 2
    assert main([str(write(tmp_path, {**STUDY, "metrics": []}))]) == 2
    assert "needs `metrics`" in capsys.readouterr().err
    store.client.log_param(store.run("gmf", 0, factors="8", hit_rate_10=0.5), "model.other.factors", "9")
    with pytest.raises(UserError, match=r"may be any of model.network.factors, model.other.factors"):
        collect(store.client, Study.read(write(tmp_path, NCF)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": ["mrr"]}, "Did you mean 'metrics'?"),
        ({"overestimation": ["dqn"]}, "no such key 'overestimation'"),
        ({"seeds": [0, "1"]}, "seeds: '1' is not a whole number"),
        ({"metrics": "mrr"}, "metrics: 'mrr' is not a list"),
        ({"runs": [{"name": "a"}]}, "nor a mapping with `overrides`"),
        ({"runs": [{"nam": "a", "overrides": []}]}, "Did you mean 'name'?"),
        ({"runs": [{"label": "it's", "overrides": []}]}, "quotation marks"),
        ({"runs": [{"name": "a", "overrides": []}, {"name": "a", "overrides": []}]}, "two runs have the name 'a'"),
        ({"runs": [{"name": "gmf_8", "overrides": []}, ["k={run:gmf8}"]]}, "Did you mean 'gmf_8'?"),
        ({"published": [{"model": "mf", "mmr": 1}]}, "Did you mean 'mrr'?"),
        ({"runs": 3}, "runs: 3 is not a list"),
    ],
)
def test_a_wrong_study_gets_one_line(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Study.read(write(tmp_path, {**STUDY, **changes}), without=("overestimation",))
    assert said in str(raised.value)
    assert "study.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_overrides_of_a_run_that_needs_others() -> None:
    run = StudyRun(["model.a={run:gmf_8}", "model.b={run:mlp_8}"], label="neumf, pretrained")
    study = Study("s", "mf", ["x=1"], [run])
    assert run.needs == ["gmf_8", "mlp_8"]
    assert study.overrides(run, 3, {"gmf_8": "123", "mlp_8": "abc"}) == [
        "tracking.experiment_name=s",
        "+tracking.tags.study_label='neumf, pretrained'",
        "seed=3",
        "x=1",
        "model.a='123'",  # not a number
        "model.b='abc'",
    ]


@pytest.mark.slow
def test_how_often_the_interval_holds_the_mean() -> None:
    generator = np.random.default_rng(0)
    shares = {}
    for seeds in (5, 10, 20):
        found = [recsys_tables.interval(generator.normal(size=seeds)) for _ in range(4000)]
        shares[seeds] = sum(bool(i.low <= 0 <= i.high) for i in found) / len(found)
    print(shares)
    assert list(shares.values()) == pytest.approx([0.84, 0.90, 0.93], abs=0.02)


# Its runs, with a command in trilab's place that notes when it was called and ends with a run in the store

FAKE = """
import hashlib, os, signal, sqlite3, sys, time, uuid
from pathlib import Path

folder, overrides = Path(sys.argv[1]), sys.argv[2:]
what = dict(text.split("=", 1) for text in overrides)
note = lambda word: (folder / "log").open("a").write(f"{word} {what['who']} {' '.join(overrides)}\\n")
note("begin")
def stop(*_):
    note("stopped")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
time.sleep(float(what.get("sleep", 0)))
if "fail" in what:
    print("what went wrong")
    sys.exit(1)
identity = hashlib.sha256("\\n".join(t for t in overrides if not t.startswith("accelerator")).encode()).hexdigest()
run_id = uuid.uuid4().hex
with sqlite3.connect(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"), timeout=20) as database:
    experiment, = database.execute("SELECT experiment_id FROM experiments WHERE name = 'studies/made_up'").fetchone()
    row = {"run_uuid": run_id, "name": "", "user_id": "", "artifact_uri": "", "source_type": "LOCAL",
           "status": "FINISHED", "start_time": time.time_ns() // 10**6, "lifecycle_stage": "active",
           "experiment_id": experiment}
    columns = f"({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
    database.execute(f"INSERT INTO runs {columns}", list(row.values()))
    database.execute("INSERT INTO tags (key, value, run_uuid) VALUES ('trilab.config_hash', ?, ?)", (identity, run_id))
note("end")
"""


@pytest.fixture
def fake(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command; a run is identified by its overrides as they stand, and nothing is checked."""
    import hashlib

    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(launch, "preflight", lambda overrides, config_dir, multirun: None)
    monkeypatch.setattr(launch, "identify", lambda texts: {hashlib.sha256("\n".join(texts).encode()).hexdigest()})
    monkeypatch.setattr(launch, "_LOOK_S", 0.01)
    return [sys.executable, str(tmp_path / "fake.py"), str(tmp_path)]


def log(tmp_path: Path) -> list[tuple[str, str]]:
    """What began and ended, in order."""
    return [tuple(line.split()[:2]) for line in (tmp_path / "log").read_text().splitlines()]


def runs_study(runs: list, seeds: list[int] | None = None) -> Study:
    return Study("studies/made_up", "mf", [], [StudyRun(**r) if isinstance(r, dict) else StudyRun(r) for r in runs],
                 seeds or [])  # fmt: skip


def test_runs_are_made_once_and_in_order(fake: list[str], tmp_path: Path) -> None:
    study = runs_study([["who=a"], ["who=b"]], [0, 1])
    run_study(study, uri(tmp_path), command=fake)
    whole = [("begin", "a"), ("end", "a"), ("begin", "b"), ("end", "b")] * 2
    assert log(tmp_path) == whole
    assert "accelerator" not in (tmp_path / "log").read_text()
    run_study(study, uri(tmp_path), jobs=2, command=fake)
    assert log(tmp_path) == whole


def test_a_study_that_runs_already_is_not_run_beside_itself(store: Store, fake: list[str], tmp_path: Path) -> None:
    other = store.client.create_run(store.experiment, run_name="seed=1", tags=process_tags()).info.run_id
    with pytest.raises(ConfigError) as raised:
        run_study(runs_study([["who=a"]]), uri(tmp_path), command=fake)
    assert f"studies/made_up: its run seed=1 is still running, as process {os.getpid()}" in str(raised.value)
    assert not (tmp_path / "log").exists()
    store.client.set_tag(other, "process.start", "1")  # the process with that number is another by now
    run_study(runs_study([["who=a"]]), uri(tmp_path), command=fake)
    assert log(tmp_path) == [("begin", "a"), ("end", "a")]


def test_a_run_gets_the_ids_of_those_it_needs_of_its_own_seed(fake: list[str], tmp_path: Path) -> None:
    runs = [{"name": "gmf", "overrides": ["who=gmf", "sleep=0.3"]}, {"overrides": ["who=neumf", "from={run:gmf}"]},
            ["who=other"]]  # fmt: skip
    run_study(runs_study(runs, [0, 1]), uri(tmp_path), jobs=2, command=fake)
    lines = (tmp_path / "log").read_text().splitlines()
    given = [next(text for text in line.split() if text.startswith("from=")) for line in lines if "end neumf" in line]
    assert len(set(given)) == 2
    ids = {run.info.run_id for run in MlflowClient(uri(tmp_path)).search_runs(["1"])}
    assert all(text.removeprefix("from=").strip("'") in ids for text in given)
    # While the first is running, what does not need it goes on.
    order = log(tmp_path)
    assert order.index(("begin", "other")) < order.index(("end", "gmf")) < order.index(("begin", "neumf"))
    assert all("accelerator.threads=1" in line for line in lines)


def test_two_at_once_are_two_at_once(fake: list[str], tmp_path: Path) -> None:
    run_study(runs_study([[f"who={name}", "sleep=0.3"] for name in "abcd"]), uri(tmp_path), jobs=2, command=fake)
    running = most = 0
    for word, _ in log(tmp_path):
        running += 1 if word == "begin" else -1
        most = max(most, running)
    assert most == 2


def test_a_failure_is_reported_after_the_others_are_done(
    fake: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = [{"name": "gmf", "overrides": ["who=gmf", "fail=1"]}, {"overrides": ["who=neumf", "from={run:gmf}"]},
            ["who=other", "sleep=0.1"], ["who=last"]]  # fmt: skip
    with pytest.raises(UserError) as raised:
        run_study(runs_study(runs), uri(tmp_path), jobs=2, command=fake)
    assert "2 of 4 runs failed: run 1 of 4: who=gmf fail=1: ended with exit code 1; run 2 of 4" in str(raised.value)
    assert "not started, for it needs 'gmf'" in str(raised.value)
    assert {name for word, name in log(tmp_path) if word == "end"} == {"other", "last"}
    assert "what went wrong" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_whoever_stops_the_study_stops_its_runs(fake: list[str], tmp_path: Path, signum: int) -> None:
    """As a process of its own, which Ctrl-C or a scheduler stops."""
    script = f"""
import sys
from pathlib import Path
from trilab.reports import launch, page
from trilab.reports.study import Study, StudyRun
launch.preflight, launch.identify = lambda *_: None, lambda texts: set()
def report(folder, uri, run, jobs):
    study = Study("studies/made_up", "mf", [], [StudyRun([f"who={{name}}", "sleep=30"]) for name in "abc"])
    launch.run_study(study, uri, jobs, {fake!r})
sys.exit(page.command_line("a", "b", report, ["x", "--jobs", "2", "--uri", {uri(tmp_path)!r}]))
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 30
    while time.time() < deadline and not ((tmp_path / "log").exists() and len(log(tmp_path)) == 2):
        time.sleep(0.05)
    os.kill(process.pid, signum)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + signum
    assert "stopped by" in said
    assert sorted(log(tmp_path)) == [("begin", "a"), ("begin", "b"), ("stopped", "a"), ("stopped", "b")]


def test_threads_of_the_launchers_choice_do_not_make_another_run() -> None:
    own = ["experiment=rl/dqn_cartpole"]
    assert identify([*own, "accelerator.threads=1"]) < identify([*own, "accelerator.threads=null"]) | identify(own)
    assert identify([*own, "accelerator.threads=2"]).isdisjoint(identify(own))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_study_runs_what_is_missing(empty_store: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    small = ["data.train_rows=2000", "data.val_rows=500", "data.test_rows=500", "data.batch_size=64"]
    common = [*small, "experiment=recsys/deepfm_synthetic", "accelerator=cpu", f"paths.outputs={tmp_path}"]
    runs = [["model.network.dim=2"], {"label": "wider, by far", "overrides": ["model.network.dim=16"]}]
    asked = {"baseline": "deepfm", "metrics": ["auc"], "common": common, "runs": runs, "seeds": [1]}
    folder = write(tmp_path, {**STUDY, **asked})
    report(folder, uri(tmp_path), run=True, jobs=2)
    client = MlflowClient(uri(tmp_path))
    [experiment] = [e for e in client.search_experiments() if e.name == "studies/made_up"]
    assert len(client.search_runs([experiment.experiment_id])) == 2
    report(folder, uri(tmp_path), run=True)
    assert len(client.search_runs([experiment.experiment_id])) == 2
    rows = list(csv.DictReader((folder / "results" / "table.csv").open()))
    assert [(row["model"], row["seed"]) for row in rows] == [("deepfm", "1"), ("wider, by far", "1")]
