"""The data module against a naive reading of the raw file, row by row; its cache, its checkpoint, its training."""

import csv
import gzip
import hashlib
import json
import math
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
import yaml
from click_tables import CONF, NAMES, Row, batches, data_of, in_file_order, ready, rows_of, write
from sklearn.preprocessing import StandardScaler
from torch import nn

from trilab.data.recsys.preprocessing import Preprocessing
from trilab.data.recsys.tables import ClickTable, preprocessing_of
from trilab.data.recsys.vocabulary import Vocabulary
from trilab.errors import UserError


@pytest.fixture
def rows() -> list[Row]:
    return rows_of(1000)


@pytest.fixture
def path(tmp_path: Path, rows: list[Row]) -> Path:
    return write(tmp_path / "clicks.csv", rows)


def split(rows: list[Row], val: float, test: float, seed: int) -> dict[str, list[Row]]:
    """Row i is in validation where the MD5 of `seed:i` is in the first share of all, and in the test in the next."""
    shares = [int(hashlib.md5(f"{seed}:{i}".encode()).hexdigest(), 16) / 2**128 for i in range(len(rows))]
    parts = {"train": [], "val": [], "test": []}
    for row, share in zip(rows, shares, strict=True):
        parts["val" if share < val else "test" if share < val + test else "train"].append(row)
    return parts


def naive_ids(train: list[str], values: list[str], min_count: int) -> list[int]:
    counts = Counter(train)
    kept = sorted((v for v in counts if counts[v] >= min_count), key=lambda value: (-counts[value], value))
    return [0 if v not in counts else 2 + kept.index(v) if v in kept else 1 for v in values]


def assert_is_naive(data: ClickTable, parts: dict[str, list[Row]], min_count: int = 3) -> None:
    """All of `ClickTable` by definition, with `log_standardize`."""
    columns = {part: dict(zip(NAMES, zip(*rows, strict=True), strict=True)) for part, rows in parts.items()}
    for part, raw in columns.items():
        ids, dense, labels = in_file_order(data, part)
        assert (ids.dtype, dense.dtype, labels.dtype) == (torch.int64, torch.float32, torch.float32)
        assert labels.tolist() == [float(label) for label in raw["label"]]
        for field, name in enumerate(("user", "item")):
            assert ids[:, field].tolist() == naive_ids(columns["train"][name], raw[name], min_count), (part, name)
        for field, name in enumerate(("price", "count")):
            train, values = (
                np.array([[math.log1p(max(float(v), 0)) if v else math.nan] for v in source[name]])
                for source in (columns["train"], raw)
            )
            expected = np.nan_to_num(StandardScaler().fit(train).transform(values), nan=0.0)[:, 0]
            np.testing.assert_allclose(dense[:, field], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_random_split_is_that_of_a_naive_reading(path: Path, rows: list[Row], in_memory: bool) -> None:
    data = ready(path, val_fraction=0.2, test_fraction=0.1, split_seed=7, in_memory=in_memory)
    parts = split(rows, 0.2, 0.1, seed=7)
    assert bool(data.parts) == in_memory
    assert_is_naive(data, parts)
    train = [row[3] for row in parts["train"]]
    assert data.spec.cardinalities[0] == 2 + sum(count >= 3 for count in Counter(train).values())
    assert (data.spec.fields, data.spec.dense_names, data.spec.dense) == (("user", "item"), ("price", "count"), 2)


def test_in_order_the_last_rows_are_the_tests(path: Path, rows: list[Row]) -> None:
    data = ready(path, split="in_order", val_fraction=0.1, test_fraction=0.25)
    assert_is_naive(data, {"train": rows[:650], "val": rows[650:750], "test": rows[750:]})


def test_parts_in_files_of_their_own(tmp_path: Path, rows: list[Row]) -> None:
    parts = {"a": rows[:300], "b": rows[300:700], "val": rows[700:800], "test": rows[800:]}
    first, second, val, test = (write(tmp_path / name, part) for name, part in parts.items())
    data = ready([first, second], val_path=str(val), test_path=str(test))
    assert_is_naive(data, {"train": rows[:700], "val": rows[700:800], "test": rows[800:]})


def test_a_test_file_with_the_validation_split_off(tmp_path: Path, rows: list[Row]) -> None:
    train, test = write(tmp_path / "train", rows[:700]), write(tmp_path / "test", rows[700:])
    data = ready(train, test_path=str(test), val_fraction=0.3, test_fraction=0.9)  # the latter has a file
    assert_is_naive(data, {**split(rows[:700], 0.3, 0.0, 1), "test": rows[700:]})


def test_other_files_change_nothing_that_was_fitted(tmp_path: Path, rows: list[Row]) -> None:
    train, test = write(tmp_path / "train", rows[:700]), write(tmp_path / "test", rows[700:])
    other = write(tmp_path / "other", [("1", "1e9", "77", "1", "x")] * 50)
    first = ready(train, test_path=str(test)).preprocessing
    assert first == ready(train, test_path=str(other)).preprocessing
    assert first != ready(test, test_path=str(other)).preprocessing


@pytest.mark.parametrize("kind", ["quoted", "tabs", "gz", "latin-1", "utf-16", "crlf", "blank lines", "pattern", "bom"])
def test_ways_to_write_the_same_table(tmp_path: Path, rows: list[Row], path: Path, kind: str) -> None:
    text = path.read_text(encoding="utf-8")
    changes: dict[str, object] = {}
    other = tmp_path / "other.csv"
    if kind == "quoted":
        with other.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([NAMES, *rows])
    elif kind == "tabs":
        write(other, rows, header=None, delimiter="\t")
        changes = {"delimiter": "\t", "header": False, "columns": list(NAMES), "quote": ""}
    elif kind == "gz":
        other = tmp_path / "other.csv.gz"
        other.write_bytes(gzip.compress(text.encode()))
    elif kind in ("latin-1", "utf-16"):
        other.write_bytes(text.encode(kind))
        changes = {"encoding": kind}
    elif kind == "crlf":
        other.write_bytes(text.replace("\n", "\r\n").encode())
    elif kind == "blank lines":
        other.write_text(text.replace("\n", "\n\n", 50), encoding="utf-8")
    elif kind == "bom":
        other.write_text(text, encoding="utf-8-sig")
    else:
        other = tmp_path / "part*.csv"
        write(tmp_path / "part0.csv", rows[:400])
        write(tmp_path / "part1.csv", rows[400:])
    expected, data = ready(path), ready(other, **changes)
    assert data.preprocessing == expected.preprocessing
    for part in ("train", "val", "test"):
        for a, b in zip(in_file_order(data, part), in_file_order(expected, part), strict=True):
            assert torch.equal(a, b)


def test_parquet_with_numbers_is_the_same_table(tmp_path: Path, rows: list[Row], path: Path) -> None:
    table = pa.csv.read_csv(
        path, convert_options=pa.csv.ConvertOptions(strings_can_be_null=True, include_columns=list(NAMES))
    )
    assert table.schema.field("user").type == pa.int64()
    pq.write_table(table.append_column("unused", pa.nulls(len(rows))), tmp_path / "clicks.parquet", row_group_size=100)
    expected, data = ready(path), ready(tmp_path / "clicks.parquet", format="parquet")
    assert data.preprocessing == expected.preprocessing
    for part in ("train", "val", "test"):
        for a, b in zip(in_file_order(data, part), in_file_order(expected, part), strict=True):
            assert torch.equal(a, b)


def test_column_names_are_taken_as_they_are(tmp_path: Path) -> None:
    """Upper and lower case, quotes and spaces."""
    rows = [(str(i % 2), str(i), f"a{i % 3}", f"b{i % 5}") for i in range(100)]
    path = write(tmp_path / "it's.csv", rows, header=("Label", "label", "my 'own'", 'say "x"'))
    fields = ["my 'own'", 'say "x"']
    data = ready(path, label="Label", dense=["label"], categorical=fields, user=fields[0], min_count=1)
    _, dense, labels = in_file_order(data, "train")
    assert data.spec.cardinalities == (5, 7)
    assert len(dense.unique()) == len(dense)
    assert (data.spec.user, data.spec.item) == (0, None)
    assert set(labels.tolist()) == {0, 1}


def test_ids_of_any_size_have_rows_of_their_own(tmp_path: Path) -> None:
    bases = [2**24, 2**31, 2**53, 2**64]
    users = [str(base + step) for base in bases for step in range(3)]
    rows = [(str(n % 2), "", "", users[n % 12], "x") for n in range(240)]
    data = ready(write(tmp_path / "ids.csv", rows), dense=[], min_count=1)
    assert data.spec.cardinalities[0] == 2 + len(users)
    table = pa.table({"user": [*users, str(2**53 + 3)], "item": ["x"] * 13})
    ids, _ = data.preprocessing.transform(table)
    assert sorted(ids[:12, 0].tolist()) == list(range(2, 14))
    assert ids[12, 0] == 0


def test_bucketized_columns_are_fields(path: Path, rows: list[Row]) -> None:
    data = ready(path, dense_transform="bucketize", buckets=4, user="user", item="item", group="user")
    spec = data.spec
    assert spec.fields == ("user", "item", "price", "count")
    assert (spec.dense, spec.dense_names, spec.user, spec.item, spec.group) == (0, (), 0, 1, 0)
    train = [float(row[1]) for row in split(rows, 0.1, 0.1, 1)["train"] if row[1]]
    edges = np.quantile(train, [0.25, 0.5, 0.75], method="inverted_cdf")
    for part, its in split(rows, 0.1, 0.1, 1).items():
        ids, dense, _ = in_file_order(data, part)
        assert dense.shape == (len(its), 0)
        assert ids[:, 2].tolist() == [1 + sum(edges < float(row[1])) if row[1] else 0 for row in its]
        assert (ids < torch.tensor(spec.cardinalities)).all()


@pytest.mark.parametrize("kind", ["none", "standardize", "log1p", "log_standardize", "bucketize"])
def test_raw_rows_are_transformed_bit_by_bit_as_in_conversion(tmp_path: Path, rows: list[Row], kind: str) -> None:
    train, test = write(tmp_path / "train", rows[:700]), write(tmp_path / "test", rows[700:])
    data = ready(train, test_path=str(test), dense_transform=kind, missing=["é2"])
    restored = Preprocessing.from_bytes(data.preprocessing.to_bytes())
    assert restored == data.preprocessing
    text = pd.read_csv(test, dtype=str, keep_default_na=False)
    typed = pd.read_csv(test)  # with floating point and NaN where there are gaps
    as_text = pa.csv.read_csv(
        test, convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(NAMES, pa.string()))
    )
    expected = in_file_order(data, "test")
    for table in (text, typed, as_text, pa.csv.read_csv(test)):
        ids, dense = restored.transform(table)
        assert torch.equal(torch.from_numpy(ids), expected[0])
        assert torch.equal(torch.from_numpy(dense), expected[1])
    one, _ = restored.transform(text.iloc[5:6])
    assert one.tolist() == expected[0][5:6].tolist()
    assert restored.transform(text.iloc[:0])[0].shape == (0, len(data.spec.fields))


def test_raw_rows_without_a_column_are_refused(path: Path) -> None:
    preprocessing = ready(path).preprocessing
    with pytest.raises(UserError, match=r"there is no column 'user'. Did you mean 'users'\? Columns: users, item"):
        preprocessing.transform(pa.table({"users": ["1"], "item": ["a"], "price": [1.0], "count": [1]}))
    with pytest.raises(UserError, match="column 'price' has 'cheap', which is not a number"):
        preprocessing.transform(pa.table({"user": ["1"], "item": ["a"], "price": ["cheap"], "count": [1]}))
    with pytest.raises(UserError, match="damaged"):
        Preprocessing.from_bytes(b"nonsense")


def test_batches_from_disk_are_those_from_memory_in_another_order(path: Path) -> None:
    memory, disk = ready(path, in_memory=True), ready(path, in_memory=False)
    for part in ("train", "val", "test"):
        a, b = batches(memory, part), batches(disk, part)
        assert [(x.shape, x.dtype) for x in a] == [(x.shape, x.dtype) for x in b]
        rows = [sorted(zip(*(x.tolist() for x in columns), strict=True)) for columns in (a, b)]
        assert rows[0] == rows[1]
    assert torch.equal(batches(memory, "test")[0], batches(disk, "test")[0])
    loader = disk.train_dataloader()
    first, second = ([ids.tolist() for ids, _, _ in loader] for _ in range(2))
    assert len(first[0]) == 50
    assert first != second  # another epoch has another order


def test_auto_holds_in_memory_what_fits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ready(path).parts
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 30_000}))
    assert not ready(path).parts  # 1,000 rows of 20 bytes, and half of 30,000
    assert ready(path, memory_share=0.9).parts


# The cache


def conversions(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if "convert" in line]


def test_converted_once_for_the_same_files_and_settings(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready(path)
    assert len(conversions(capsys)) == 1
    ready(path, batch_size=7, seed=9, in_memory=False, memory_limit_mb=500)
    assert conversions(capsys) == []
    for changes in ({"min_count": 1}, {"dense_transform": "log1p"}, {"split_seed": 2}, {"missing": ["é1"]}):
        ready(path, **changes)
        assert len(conversions(capsys)) == 1, changes
    write(path, rows_of(1000, seed=1))
    ready(path)
    assert len(conversions(capsys)) == 1
    assert sorted(p.suffix for p in (path.parent / "cache").iterdir()) == [""] * 6 + [".lock"] * 6


def test_a_cache_of_another_version_is_made_anew(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = in_file_order(ready(path), "test")
    [folder] = [p for p in (path.parent / "cache").iterdir() if p.is_dir()]
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "format": 0}))
    with pytest.raises(UserError, match="written in format 0 by another version of trilab"):
        data_of(path).setup("fit")
    capsys.readouterr()
    data = ready(path)
    [said] = conversions(capsys)
    assert said.endswith("written in format 0 by another version of trilab, which now writes 1; converting anew.")
    assert torch.equal(in_file_order(data, "test")[0], expected[0])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "val.arrow").unlink(), r"val.arrow: not there, expected \d[\d,]+ bytes"),
        (lambda folder: os.truncate(folder / "train.arrow", 900), r"train.arrow: 900 bytes, expected"),
        (lambda folder: (folder / "meta.json").write_text("{"), "meta.json cannot be read"),
        (
            lambda folder: (folder / "test.arrow").write_bytes(bytes((folder / "test.arrow").stat().st_size)),
            "test.arrow is no Arrow file",
        ),
        (
            lambda folder: (folder / "preprocessing.arrow").write_bytes(
                bytes((folder / "preprocessing.arrow").stat().st_size)
            ),
            "preprocessing.arrow cannot be read",
        ),
    ],
    ids=["a file gone", "a file cut", "no meta", "zeros", "zeros in the vocabularies"],
)
def test_a_damaged_cache_is_made_anew(
    path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    expected = in_file_order(ready(path), "train")
    [folder] = [p for p in (path.parent / "cache").iterdir() if p.is_dir()]
    damage(folder)
    capsys.readouterr()
    data = ready(path)
    [line] = conversions(capsys)
    assert re.search(said, line)
    assert all(torch.equal(a, b) for a, b in zip(in_file_order(data, "train"), expected, strict=True))


def test_nothing_is_left_of_a_conversion_that_failed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vocabulary, "ids", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ready(path)
    assert [p.suffix for p in (path.parent / "cache").iterdir()] == [".lock"]


def _killed(path: Path) -> None:
    Vocabulary.ids = lambda *_: os._exit(1)  # type: ignore[method-assign]
    ready(path)


def _converted(path: Path, barrier: object) -> None:
    barrier.wait()
    ready(path)


def test_what_a_killed_process_left_is_cleared_away(path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 1
    cache = path.parent / "cache"
    assert [p for p in cache.iterdir() if ".part-" in p.name]
    with pytest.raises(UserError, match="not there"):
        data_of(path).setup("fit")
    ready(path)
    assert sorted(p.suffix for p in cache.iterdir()) == ["", ".lock"]


def test_two_processes_convert_once(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=_converted, args=(path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(p.suffix for p in (path.parent / "cache").iterdir()) == ["", ".lock"]
    ready(path)


def test_a_cache_that_cannot_be_written_is_said(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.cache=.*file/cache"):
        data_of(path, cache=str(tmp_path / "file" / "cache")).prepare_data()


# Training


class Model(pl.LightningModule):
    """A sum of weights of ids."""

    def __init__(self, data: ClickTable) -> None:
        super().__init__()
        self.weights = nn.ModuleList(nn.Embedding(count, 1) for count in data.spec.cardinalities)
        self.seen: list[list[float]] = []

    def training_step(self, batch: tuple[torch.Tensor, ...], batch_idx: int) -> torch.Tensor:
        ids, dense, labels = batch
        self.seen.append(dense[:, 0].tolist())
        logits = sum(weight(ids[:, field])[:, 0] for field, weight in enumerate(self.weights))
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)

    def validation_step(self, batch: tuple[torch.Tensor, ...], batch_idx: int) -> None:
        self.log("rows", float(len(batch[2])), reduce_fx="sum", batch_size=1)

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def trainer(folder: Path, **arguments: object) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        **arguments,
    )  # fmt: skip


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_stopped_training_goes_on_as_if_it_had_not(path: Path, tmp_path: Path, in_memory: bool) -> None:
    torch.manual_seed(0)
    data = ready(path, in_memory=in_memory)
    whole = Model(data)
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    trainer(tmp_path, max_epochs=3, enable_checkpointing=False).fit(whole, datamodule=data)

    stopped, resumed = Model(data), Model(data)
    stopped.load_state_dict(start)
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "last", every_n_train_steps=20, save_top_k=-1)  # an epoch has 16
    trainer(tmp_path, max_steps=20, callbacks=[keep]).fit(stopped, datamodule=ready(path, in_memory=in_memory))
    rest = trainer(tmp_path, max_epochs=3, enable_checkpointing=False)
    rest.fit(resumed, datamodule=ready(path, in_memory=in_memory), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert stopped.seen + resumed.seen == whole.seen
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])


def test_a_checkpoint_has_what_scores_raw_rows(path: Path, tmp_path: Path) -> None:
    data = ready(path)
    run = trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    run.fit(Model(data), datamodule=data)
    run.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["ClickTable"]
    assert preprocessing_of(state) == data.preprocessing
    found = run.test(Model(data), datamodule=data, ckpt_path=tmp_path / "last.ckpt", verbose=False, weights_only=True)
    assert found[0]["rows"] == len(data.parts["test"][2])
    other = ready(path, dense_transform="log1p")
    with pytest.raises(UserError, match="trained with other vocabularies or numeric transforms"):
        trainer(tmp_path).test(Model(other), datamodule=other, ckpt_path=tmp_path / "last.ckpt", weights_only=True)


def test_teardown_closes_and_setup_opens_again(path: Path) -> None:
    data = ready(path, in_memory=False)
    expected = in_file_order(data, "test")
    data.teardown("fit")
    data.setup("test")
    assert torch.equal(in_file_order(data, "test")[0], expected[0])


# Criteo


@pytest.mark.realdata
def test_the_criteo_sample(real_data: Path, tmp_path: Path) -> None:
    """Kaggle's raw format, row by row; and raw test rows bit by bit."""
    folder = real_data / "criteo-sample"
    own = yaml.safe_load((CONF / "criteo.yaml").read_text())
    del own["defaults"]
    own["train_path"] = str(folder / "criteo_train.txt")
    data = ready(
        tmp_path / "unused",
        **own,
        val_path=str(folder / "criteo_dev.txt"),
        test_path=str(folder / "criteo_test.txt"),
        min_count=2,
    )
    raw = {}
    for part, name in (("train", "train"), ("val", "dev"), ("test", "test")):
        lines = (folder / f"criteo_{name}.txt").read_text().splitlines()
        raw[part] = list(zip(*(line.split("\t") for line in lines), strict=True))  # columns
    assert [len(raw[part][0]) for part in raw] == [7200, 409, 391]
    for part, columns in raw.items():
        ids, dense, labels = in_file_order(data, part)
        assert labels.tolist() == [float(label) for label in columns[0]]
        for field in range(26):
            train = raw["train"][14 + field]
            assert ids[:, field].tolist() == naive_ids(list(train), list(columns[14 + field]), 2)
        for field in range(13):
            logs = np.array([math.log1p(max(float(v), 0)) if v else math.nan for v in raw["train"][1 + field]])
            value = columns[1 + field][0]
            scaled = (math.log1p(max(float(value), 0)) - np.nanmean(logs)) / np.nanstd(logs) if value else 0.0
            assert float(dense[0, field]) == pytest.approx(scaled, rel=1e-5, abs=1e-6)
    table = pa.table(dict(zip(own["columns"], (list(column) for column in raw["test"]), strict=True)))
    ids, dense = Preprocessing.from_bytes(data.preprocessing.to_bytes()).transform(table)
    assert torch.equal(torch.from_numpy(ids), in_file_order(data, "test")[0])
    assert torch.equal(torch.from_numpy(dense), in_file_order(data, "test")[1])
