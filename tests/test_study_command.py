"""`trilab study`: where studies are found, what is refused, where results go, and what a stop leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from trilab.cli import main
from trilab.reports import studies
from trilab.reports.launch import identify
from trilab.reports.study import Study, StudyRun

#: A kind of study that notes what it was asked for, and makes no runs.
KIND = """
import json, time
from pathlib import Path
from trilab.reports.study import Study

def read(folder):
    return Study.read(folder)

def report(folder, uri, run, jobs):
    study = read(folder)
    Path("calls.jsonl").open("a").write(json.dumps([str(folder), study.name, run, jobs, study.changes]) + "\\n")
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / "table.md").write_text("new")
    if study.baseline == "sleep":
        time.sleep(60)
    return [folder / "results" / "table.md"]
"""
STUDY = {
    "name": "studies/mine",
    "report": "my_kind",
    "baseline": "fp32",
    "common": ["trainer.max_epochs=1"],
    "runs": [["experiment=vision/mnist_cnn"], ["experiment=vision/mnist_cnn", "model=vision/mlp"]],
    "seeds": [0, 1],
}


def trilab(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    return int(raised.value.code or 0)


@pytest.fixture
def mine(workdir: Path) -> Path:
    """A study of the user's own in the working folder; with results, as of an earlier day."""
    return write(workdir / "experiments" / "mine")


def write(folder: Path, **changes: object) -> Path:
    kinds = folder.parents[1] / "kinds"
    kinds.mkdir(exist_ok=True)
    (kinds / "my_kind.py").write_text(KIND)
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "table.md").write_text("old")
    (folder / "results" / "machine.json").write_text(json.dumps({"last_run": "2026-11-20"}))
    report = {"report": "kinds.my_kind"}
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, **report, **changes}, sort_keys=False))
    (folder / "README.md").write_text("# What of it?\n\nYes.\n\n<!-- results -->\n<!-- /results -->\n")
    return folder


def calls() -> list:
    return [json.loads(line) for line in Path("calls.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "study needs a name. There are: "),
        (["minne"], "no study 'minne'. Did you mean 'mine'?"),
        (["recomenders"], "Did you mean 'recommenders'?"),
        (["nowhere/mine"], "there is no file nowhere/mine/study.yaml"),
        (["mine", "recommenders"], "a study runs alone"),
        (["mine", "--job", "2"], "unrecognized arguments: --job"),
        (["mine", "--jobs", "0"], "--jobs 0: expected a whole number >= 1."),
        (["seed=1"], "the name of a study comes before overrides"),
        (["mine", "seed=1"], "seed is what the study itself sets"),
        (["mine", "tracking.experiment_name=x"], "is what the study itself sets"),
        (["mine", "optimizer.lrr=1"], "Did you mean 'lr'?"),
        (["mine", "trainer.max_epochs=many"], "trainer.max_epochs=many: expected a whole number"),
    ],
)
def test_what_is_wrong_gets_one_line(
    mine: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trilab("study", *arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
    assert not Path("calls.jsonl").exists()


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ("agnts", "Did you mean 'agents'? Allowed: agents, compare, device, precision, recsys"),
        ("no.such.module", "is no kind of study"),
        ("trilab.reports.page", "has no function `read`"),
        (None, "'report' is missing"),
    ],
)
def test_a_study_of_no_kind(workdir: Path, report: str | None, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(workdir / "experiments" / "mine", report=report)
    assert trilab("study", "mine") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["recomenders"], ["recommenders", "trainer.max_epochs=many"]])
def test_nothing_heavy_is_loaded_before_the_study_is_known_to_be_good(workdir: Path, arguments: list[str]) -> None:
    script = f"""
import sys
from trilab.cli import main
try:
    main(["study", *{arguments!r}])
except SystemExit as ended:
    print(ended.code, [name for name in ("torch", "mlflow", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"


def test_the_report_is_made_in_the_studys_own_folder(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trilab("study", "mine", "--jobs", "3") == 0
    assert trilab("study", "mine", "--report-only") == 0
    assert trilab("study", "./experiments/mine") == 0
    folder = str(mine)
    assert calls() == [
        [folder, "studies/mine", True, 3, []],
        [folder, "studies/mine", False, 1, []],
        ["experiments/mine", "studies/mine", True, 1, []],
    ]
    assert (mine / "results" / "table.md").read_text() == "new"
    assert capsys.readouterr().out.splitlines()[0] == f"{mine}/results/table.md"


def test_results_with_other_settings_never_take_the_studys_place(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trilab("study", "mine", "trainer.max_epochs=2", "~callbacks.video") == 0
    assert (mine / "results" / "table.md").read_text() == "old"
    [[folder, name, _, _, changes]] = calls()
    assert folder.startswith("outputs/studies/mine+")
    assert f"the results go to {folder}" in capsys.readouterr().err
    assert name == f"studies/{Path(folder).name}"  # an MLflow experiment of its own
    assert changes == ["trainer.max_epochs=2", "~callbacks.video"]
    readme = Path(folder, "README.md").read_text()
    assert readme.startswith("# What of it?")
    assert "Yes." not in readme  # the answer was to the study as it was
    study = Study.read(Path(folder))
    assert study.overrides(study.runs[0], 1)[-3:] == ["experiment=vision/mnist_cnn", *changes]
    # The same again goes on there, and the folder is a study by itself.
    assert trilab("study", "mine", "trainer.max_epochs=2", "~callbacks.video") == 0
    assert trilab("study", f"./{folder}") == 0
    assert [call[:2] for call in calls()] == [[folder, name]] * 3
    assert trilab("study", f"./{folder}", "trainer.max_epochs=3") == 2
    assert "Give all overrides to the original" in capsys.readouterr().err


def test_runs_with_other_settings_are_other_runs() -> None:
    study = Study("studies/mine", "", [], [StudyRun(["experiment=vision/mnist_cnn"])], [1])
    changed = study.changed(["trainer.max_epochs=7"])
    [run] = study.runs
    assert identify(study.overrides(run, 1)).isdisjoint(identify(changed.overrides(run, 1)))
    assert changed.name != study.changed(["trainer.max_epochs=8"]).name


def test_the_folder_of_the_results_can_be_chosen(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trilab("study", "mine", "--to", "a/b") == 0
    assert calls() == [["a/b", "studies/mine", True, 1, []]]  # the same runs
    assert Path("a/b/README.md").read_text() == (mine / "README.md").read_text()
    assert Path("a/b/results/machine.json").is_file()
    assert trilab("study", "mine", "trainer.max_epochs=2", "--to", "a/b") == 2
    assert "holds another study" in capsys.readouterr().err
    Path("full").mkdir()
    Path("full/file").touch()
    assert trilab("study", "mine", "--to", "full") == 2
    assert "is there already, and no study" in capsys.readouterr().err


def test_an_installed_study_is_not_changed(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = write(workdir / "packages" / "mine")
    with monkeypatch.context() as patched:
        patched.setattr(studies, "folders", lambda: {"mine": packed})
        patched.setattr(studies.sysconfig, "get_path", lambda name: str(workdir / "packages"))
        assert trilab("study", "mine") == 0
    assert "the results go to experiments/mine" in capsys.readouterr().err
    assert (packed / "results" / "table.md").read_text() == "old"
    assert Path("experiments/mine/results/table.md").read_text() == "new"
    assert studies.folders()["mine"] == workdir / "experiments" / "mine"  # from then on it is the user's own


def test_the_list_tells_what_is_done(mine: Path, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")
    experiment = client.create_experiment("studies/mine")
    study = Study.read(mine)
    for seed, status in ((0, "FINISHED"), (1, "FAILED")):
        [one, *_] = identify(study.overrides(study.runs[1], seed))
        run = client.create_run(experiment, tags={"trilab.config_hash": one})
        client.set_terminated(run.info.run_id, status)
    write(workdir / "experiments" / "wrong", baselin="x")
    assert trilab("study", "--list") == 0
    rows = {line.split()[0]: " ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["mine"] == "mine What of it? 1 of 4 2026-11-20"
    own = Study.read(studies.folders()["dqn_family"])
    assert f"What does each part of the DQN family buy? 0 of {len(own.runs)} 20" in rows["dqn_family"]
    assert "no such key 'baselin'. Did you mean 'baseline'?" in rows["wrong"]


def test_runs_that_others_start_from_are_counted_with_their_ids(workdir: Path) -> None:
    runs = [
        StudyRun(["seed=0"], name="first"),
        StudyRun(["seed=1", "+tracking.tags.from={run:first}", "resume={run:first}"]),
    ]
    study = Study("studies/chain", "", ["experiment=vision/mnist_cnn"], runs)
    client = MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")
    assert studies.progress(study, client) == studies.Progress(0, 2)
    experiment = client.create_experiment("studies/chain")

    def finish(run: StudyRun, ids: dict[str, str]) -> str:
        [one, *_] = identify(study.overrides(run, None, ids))
        run_id = client.create_run(experiment, tags={"trilab.config_hash": one}).info.run_id
        client.set_terminated(run_id)
        return str(run_id)

    finish(runs[1], {"first": "0" * 32})  # it started from another
    assert studies.progress(study, client) == studies.Progress(0, 2)
    first = finish(runs[0], {})
    assert studies.progress(study, client) == studies.Progress(1, 2)
    finish(runs[1], {"first": first})
    assert studies.progress(study, client) == studies.Progress(2, 2)


def test_every_study_of_this_repository_is_of_a_kind_and_can_be_run() -> None:
    from trilab.config.compose import compose

    for folder in sorted(Path(__file__).parents[1].glob("experiments/*/study.yaml")):
        study = studies.kind(folder.parent).read(folder.parent)
        assert studies.question(folder.parent).endswith("?")
        for run in study.runs:
            compose(study.overrides(run, study.seeds[0] if study.seeds else None))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_it_with_130(mine: Path, workdir: Path) -> None:
    write(workdir / "experiments" / "long", baseline="sleep", runs=[])
    process = subprocess.Popen(
        [sys.executable, "-m", "trilab", "study", "long"], cwd=workdir, stderr=subprocess.PIPE, text=True
    )
    deadline = time.time() + 30
    while time.time() < deadline and not (workdir / "calls.jsonl").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == "trilab: stopped by SIGINT\n"


def test_completion_knows_the_studies(mine: Path) -> None:
    line = "trilab study rec"
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = subprocess.run(
        [sys.executable, "-m", "trilab", "-sc", "query=bash"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["recommenders", "recommenders_clicks", "recommenders_movielens_1m"]
