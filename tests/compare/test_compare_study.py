"""`report: compare` of a study: the comparison becomes its results."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from made_up import Store

from trilab.compare.study import read, report
from trilab.errors import ConfigError

README = "# Question\n\n<!-- results -->\nof last week\n<!-- /results -->\n\nafter\n"
STUDY = {
    "name": "studies/made_up",
    "report": "compare",
    "baseline": "fp32",
    "by": ["data", "model", "precision"],
    "common": [],
    "runs": [
        ["experiment=vision/mnist_cnn", "precision=fp32"],
        ["experiment=vision/mnist_cnn", "precision=bf16-mixed"],
    ],
    "seeds": [0, 1, 2, 3, 4],
}


def write(folder: Path, **changes: object) -> Path:
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))
    (folder / "README.md").write_text(README)
    return folder


def test_the_block_holds_verdicts_tables_and_plots_of_each_task(tmp_path: Path) -> None:
    store = Store(tmp_path, "studies/made_up")
    store.precisions()
    other = {"trilab.data": "rl/cartpole", "trilab.model": "rl/dqn"}
    for seed in range(5):
        for precision, value in (("fp32", 0.5), ("bf16-mixed", 0.4)):
            store.run(seed, value + seed / 100, precision, tags=other, environment=True)
    folder, uri = write(tmp_path), f"sqlite:///{tmp_path / 'mlflow.db'}"
    written = {path.name for path in report(folder, uri)}
    assert {"table.md", "table.csv", "groups.csv", "machine.json", "README.md"} <= written
    assert {"mnist_scores.png", "cartpole_scores.png", "mnist_curves_over_steps.png"} <= written
    block = (folder / "README.md").read_text()
    assert block.startswith("# Question\n\n<!-- results -->\n\n- **mnist: ")
    assert block.endswith("<!-- /results -->\n\nafter\n")
    assert "of last week" not in block
    assert "mnist_cnn bf16-mixed is 1.25x faster [1.25, 1.25] but worse by 0.0020 [0.0020, 0.0020]" in block
    assert "dqn bf16-mixed is" in block
    assert "worse by 0.1" in block
    assert "### cartpole: test/accuracy (more is better), against fp32\n\n| group | n | IQM [95%] |" in block
    assert "![mnist scores](results/mnist_scores.png)" in block
    assert "20 runs" in block
    groups = list(csv.DictReader((folder / "results" / "groups.csv").open()))
    assert [(row["data"], row["precision"], row["n"]) for row in groups] == [
        (data, precision, "5") for data in ("vision/mnist", "rl/cartpole") for precision in ("fp32", "bf16-mixed")
    ]
    facts = json.loads((folder / "results" / "machine.json").read_text())
    assert (facts["runs"], facts["torch"], facts["device.name"]) == (20, "2.13.0+cpu", "A chip")
    report(folder, uri)
    assert (folder / "README.md").read_text() == block


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": ["test/accuracy", "test/loss"]}, "metrics: one is compared"),
        ({"by": []}, "by: name what tells the groups apart"),
        ({"published": []}, "no such key 'published'"),
    ],
)
def test_a_wrong_study_gets_one_line(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": ["acuracy"]}, "Did you mean 'val/accuracy'"),
        ({"baseline": "fp16"}, "--baseline fp16: no group has it"),
        ({"by": ["precison"]}, "Did you mean 'precision'"),
        ({"name": "studies/made_upp"}, "Did you mean 'studies/made_up'"),
    ],
)
def test_what_the_store_does_not_hold_is_said(tmp_path: Path, changes: dict, said: str) -> None:
    Store(tmp_path, "studies/made_up").precisions()
    with pytest.raises(ConfigError, match=said):
        report(write(tmp_path, **changes), f"sqlite:///{tmp_path / 'mlflow.db'}")
