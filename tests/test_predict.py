"""Raw rows scored by the command line, against the rows that training converted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.entities import Run

from trilab.callbacks.identity import KEY, read_checkpoint
from trilab.cli import main
from trilab.config.job import Job
from trilab.lightning import assemble

pytestmark = pytest.mark.slow  # runs through the command line
SMALL = ["experiment=recsys/deepfm_criteo", "trainer.max_epochs=2", "data.batch_size=16", "model.network.hidden=[8]",
         "tracking.system_metrics=false"]  # fmt: skip


def trilab(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    return int(raised.value.code or 0)


@pytest.fixture
def trained(runs: Callable[[], list[Run]], workdir: Path) -> tuple[str, Path]:
    """The id of a run on 200 rows, and its best checkpoint."""
    assert trilab("train", *SMALL) == 0
    return runs()[-1].info.run_id, next((workdir / "mlartifacts").rglob("best.ckpt"))


def scored_as_in_training(checkpoint: Path) -> np.ndarray:
    """What the model of a checkpoint gives for the test part that the data module converted."""
    content = read_checkpoint(checkpoint, "checkpoint")
    data, model = assemble([Job(content[KEY]["config"], content[KEY]["choices"])])
    model.load_state_dict(content["state_dict"])
    [(ids, dense, _)] = list(data.test_dataloader())
    with torch.no_grad():
        return model.eval()(ids, dense).double().sigmoid().numpy()


def test_raw_rows_are_scored_as_training_scored_them(trained, workdir: Path, fake_data: Path):
    run, checkpoint = trained
    expected = scored_as_in_training(checkpoint)[40:]  # the test's second file
    raw = fake_data / "criteo-sample" / "criteo_test.txt"
    assert trilab("predict", f"run={run}", f"input={raw}", "output=whole.csv") == 0
    scores = pd.read_csv("whole.csv")["probability"].to_numpy()
    # Equal logits; the float64 sigmoid's last bit depends on how many rows are computed at once.
    np.testing.assert_allclose(scores, expected, rtol=1e-15)
    assert len(set(scores)) > 30

    # Without labels, and in other batches, as a file of new rows would be.
    unlabeled = workdir / "new.txt"
    unlabeled.write_text("".join(line.partition("\t")[2] + "\n" for line in raw.read_text().splitlines()))
    arguments = [f"checkpoint={checkpoint}", f"input={unlabeled}", "output=new.csv", "data.eval_batch_size=7"]
    assert trilab("predict", *arguments) == 0
    np.testing.assert_allclose(pd.read_csv("new.csv")["probability"], expected, rtol=1e-5)


def test_values_that_training_never_saw_share_one_index(trained, workdir: Path, fake_data: Path):
    run, _ = trained
    line = (fake_data / "criteo-sample" / "criteo_test.txt").read_text().splitlines()[0].split("\t")
    for name, value in (("one", "nonsense"), ("two", "another")):
        (workdir / f"{name}.txt").write_text("\t".join([*line[:-1], value]) + "\n")
        assert trilab("predict", f"run={run}", f"input={name}.txt", f"output={name}.csv") == 0
    assert (workdir / "one.csv").read_text() == (workdir / "two.csv").read_text()


def test_mistakes_get_one_line_and_write_nothing(trained, workdir: Path, fake_data: Path, capsys):
    run, _ = trained
    raw = fake_data / "criteo-sample" / "criteo_test.txt"
    shutil.copy(raw, "bad.txt")
    with Path("bad.txt").open("a") as file:
        file.write("too\tfew\n")
    named = [f"run={run}", f"input={raw}", "output=out.csv"]
    for arguments, code, message in (
        (named[:2], 2, "predict needs output=<file>."),
        ([*named[:2], "outptu=out.csv"], 2, "predict needs output=<file>. Did you mean 'output'?"),
        ([named[0], "input=nowhere.txt", named[2]], 2, "input=nowhere.txt: there is no such file."),
        ([named[0], named[1], "output=no/where.csv"], 2, "there is no folder"),
        (["input=bad.txt", "output=out.csv"], 2, "predict needs one of run="),
        (
            [named[0], "input=bad.txt", "output=out.csv"],
            1,
            "bad.txt:41: 2 columns, expected 40 (label, I1, I2, ..., C26).",
        ),
    ):
        assert trilab("predict", *arguments) == code
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1
        assert not list(workdir.glob("*out.csv*"))


def test_a_run_of_other_data_is_refused(runs, capsys, tmp_path):
    small = ["trainer.max_epochs=1", "data.train_rows=500", "data.val_rows=100", "data.test_rows=100"]
    assert trilab("train", "experiment=recsys/deepfm_synthetic", *small, "tracking.system_metrics=false") == 0
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    assert trilab("predict", f"run={runs()[-1].info.run_id}", "input=rows.csv", "output=out.csv") == 2
    assert "predict scores raw rows of a table of clicks" in capsys.readouterr().err
