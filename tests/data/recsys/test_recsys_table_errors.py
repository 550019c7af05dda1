"""What is wrong with a table is said in one line that names the file and the line, and nothing is left half-written."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click_tables import CONF, NAMES, data_of, ready, rows_of, write

from trilab.config.compose import compose
from trilab.errors import ConfigError, UserError

HEADER = "label,price,count,user,item\n"
GOOD = "".join(f"{i % 2},{i}.5,{i},{i % 7},x{i % 3}\n" for i in range(100))
#: The first line in the middle of the file that a test puts something into.
LINE = 52


def content(line: str) -> str:
    lines = GOOD.splitlines(keepends=True)
    return HEADER + "".join(lines[:50]) + line + "".join(lines[50:])


def failure(path: Path, **changes: Any) -> str:
    """The message of the error, with nothing left in the cache."""
    with pytest.raises(UserError) as raised:
        ready(path, **changes)
    message = str(raised.value)
    assert "\n" not in message
    cache = path.parent / "cache"
    assert not cache.exists() or all(left.suffix == ".lock" for left in cache.iterdir())
    return message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,2,3,4\n", "4 columns, expected 5 (label, price, count, user, item)."),
        ("1,2,3,4,x,y\n", "6 columns, expected 5 (label, price, count, user, item)."),
        ("1;2;3;4;x\n", "1 columns, expected 5 (label, price, count, user, item). Is data.delimiter=',' right?"),
        ("2,2,3,4,x\n", "the label 'label' is 2, and has to be 0 or 1."),
        ("0.5,2,3,4,x\n", "the label 'label' is 0.5, and has to be 0 or 1."),
        ("-1,2,3,4,x\n", "the label 'label' is -1, and has to be 0 or 1."),
        (",2,3,4,x\n", "the label 'label' is missing, and has to be 0 or 1."),
        ("yes,2,3,4,x\n", "the label 'label' is 'yes', and has to be 0 or 1."),
        ("1,cheap,3,4,x\n", "column 'price' has 'cheap', which is not a number. For ids, name it in data.categorical."),
        ("1,2,inf,4,x\n", "column 'count' is infinite."),
        ('1,2,3,4,"x\n', "a quote that is not closed. data.quote='' takes quotes as any other character."),
    ],
    ids=["too few", "too many", "other delimiter", "2", "0.5", "-1", "no label", "yes", "no number", "inf", "quote"],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text(content(line))
    assert failure(path) == f"{path}:{LINE}: {said}"
    first_rows = "0,1,2,3,a\n\n\n0,1,2,3,a\n0,1,2,3,a\n"  # empty lines count as lines
    path.write_text(HEADER + first_rows + line + GOOD)
    assert failure(path) == f"{path}:7: {said}"


def test_a_line_is_that_of_the_file_where_texts_have_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    for line in ("1,2,3,4\n", "7,2,3,4,x\n", "1,a,3,4,x\n"):
        path.write_text(HEADER + '0,1,2,3,"a\nb"\n' + line + GOOD)
        assert failure(path).startswith(f"{path}:4: ")


def test_without_a_header_lines_count_from_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    own = {"header": False, "columns": list(NAMES)}
    for line in ("1,2,3\n", "9,2,3,4,x\n"):
        path.write_text("0,1,2,3,a\n" + line + GOOD)
        assert failure(path, **own).startswith(f"{path}:2: ")
    path.write_text("0,1,2\n" + GOOD)
    assert failure(path, **own) == f"{path}:1: 3 columns, expected 5 (label, price, count, user, item)."


def test_of_several_files_the_right_one_is_named(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(HEADER + GOOD)
    second.write_text(content("3,2,3,4,x\n"))
    assert failure(first, val_path=str(second)).startswith(f"{second}:{LINE}: the label")
    assert failure(first, test_path=str(second)).startswith(f"{second}:{LINE}: the label")


def test_many_columns_are_not_all_listed(tmp_path: Path) -> None:
    path = tmp_path / "wide.txt"
    columns = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
    row = "\t".join(["0", *["1"] * 13, *["a"] * 26])
    path.write_text(f"{row}\n{row[:-2]}\n")
    own = {"header": False, "columns": columns, "delimiter": "\t", "dense": columns[1:14], "categorical": columns[14:]}
    assert failure(path, **own) == f"{path}:2: 39 columns, expected 40 (label, I1, I2, ..., C26)."


def test_a_missing_file_has_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "clicks_train.csv").write_text(HEADER + GOOD)
    path = tmp_path / "click_train.csv"
    assert failure(path) == f"data.train_path={path}: there is no such file. Did you mean 'clicks_train.csv'?"
    path = tmp_path / "nowhere" / "clicks.csv"
    assert failure(path) == f"data.train_path={path}: there is no such file. Nor is there a folder {path.parent}."
    assert "data.test_path=no*.csv: there is no such file." in failure(
        tmp_path / "clicks_train.csv", test_path="no*.csv"
    )


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("")
    assert failure(path) == f"{path} is empty."
    path.write_text(HEADER)
    assert failure(path) == f"{path} has no rows."
    assert failure(tmp_path / "clicks.csv", format="parquet").startswith(f"{path} cannot be read as Parquet: ")
    (tmp_path / "folder").mkdir()
    assert failure(tmp_path / "folder").endswith(
        f"{tmp_path}/folder is a folder. For the files in it: {tmp_path}/folder/*."
    )
    pq.write_table(pa.table({"label": [0]}), path)
    assert failure(path) == f"{path} is a Parquet file. Set data.format=parquet."


def test_a_column_that_is_not_there_has_a_near_one(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text(HEADER + GOOD)
    columns = "Columns: label, price, count, user, item."
    assert failure(path, label="labels") == f"{path}: there is no column 'labels'. Did you mean 'label'? {columns}"
    assert failure(path, categorical=["User"]) == f"{path}: there is no column 'User'. Did you mean 'user'? {columns}"
    path.write_text("label,price,price,user,item\n0,1,2,3,4\n")
    assert failure(path, dense=["price"]) == f"{path}: two columns are named 'price'."
    table = tmp_path / "clicks.parquet"
    pq.write_table(pa.table({"label": [0, 1], "usr": [1, 2]}), table)
    said = failure(table, format="parquet", dense=[], categorical=["user"])
    assert said == f"{table}: there is no column 'user'. Did you mean 'usr'? Columns: label, usr."


def test_another_encoding_is_said_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_bytes(content("1,2,3,4,café\n").encode("latin-1"))
    said = failure(path)
    assert said.startswith(
        f"{path}:{LINE}: not utf-8 text. Set data.encoding=latin-1 if it is that, or convert the file"
    )
    path.write_bytes(f"{content('')}{GOOD * 20}1,2,3,4,café\n".encode("latin-1"))  # further on than Python reads ahead
    assert failure(path).startswith(f"{path}:2102: not utf-8 text.")
    assert ready(path, encoding="latin-1", cache=str(tmp_path / "other")).spec.fields == ("user", "item")
    path.write_bytes(content("1,2,3,4,café\n").encode("utf-16"))
    assert failure(path) == f"{path} is in UTF-16, not utf-8. Set data.encoding=utf-16."
    path.write_bytes("étiquette,a\n1,2\n".encode("latin-1"))
    assert failure(path, label="étiquette").startswith(f"{path}:1: not utf-8 text.")


def test_bad_values_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "clicks.parquet"

    def said(**columns: Any) -> str:
        good = {"label": [0, 1, 0], "price": [1.0, 2.0, None], "count": [1, 2, 3], "user": [1, 2, 3], "item": ["a"] * 3}
        pq.write_table(pa.table({**good, **columns}), path)
        return failure(path, format="parquet")

    assert said(label=[0, 1, 3]) == f"{path}, row 3: the label 'label' is 3, and has to be 0 or 1."
    assert said(label=[0, None, 1]) == f"{path}, row 2: the label 'label' is missing, and has to be 0 or 1."
    assert said(price=["1", "2", "x"]) == f"{path}, rows from 1: column 'price' has 'x', which is not a number."
    assert "column 'user' has 1.5" in said(user=[1.5, 2.0, 3.0])
    assert "column 'item' is list<" in said(item=[["a"], ["b"], []])


def test_one_class_has_nothing_to_tell_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "clicks.csv", [("0", *row[1:]) for row in rows_of(50)])
    assert failure(path, split="in_order") == "all 40 training rows have the label 0: there is nothing to tell apart."


def test_a_part_without_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "clicks.csv", rows_of(3))
    assert failure(path, split="in_order").startswith("no rows are left for val.")


def test_one_file_in_two_parts_would_leak(tmp_path: Path) -> None:
    path = write(tmp_path / "clicks.csv", rows_of(10))
    with pytest.raises(ConfigError, match=r"data.test_path: .*clicks.csv is in data.train_path already"):
        data_of(path, test_path=str(tmp_path / "*.csv")).prepare_data()


def test_too_little_memory_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "clicks.csv", rows_of(20_000))
    assert failure(path, memory_limit_mb=1).startswith("data.memory_limit_mb=1 is not enough to convert the table")


# Before anything starts

CSV = ["experiment=recsys/deepfm_synthetic", "data=recsys/csv", "data.train_path=a.csv", "data.label=y",
       "data.categorical=[u,i]"]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.train_path=[]"], "data.train_path is empty."),
        (["data.train_path=3"], "data.train_path=3: expected a text or a list of a text each."),
        (["data.dense=[u]"], "data.categorical: column 'u' is in data.dense already."),
        (["data.label=u"], "data.categorical: column 'u' is in data.label already."),
        (["data.categorical=[u,u]"], "data.categorical: column 'u' is in data.categorical already."),
        (["data.categorical=[]"], "data.categorical=[]: expected one column at least"),
        (["data.user=us"], "data.user=us is not in data.categorical. Did you mean 'u'? Allowed: null, u, i."),
        (["data.dense_transform=bucketise"], "Did you mean 'bucketize'?"),
        (["data.dense_transform=bucketize", "data.buckets=1"], "data.buckets=1: expected 2 at least."),
        (["data.delimiter=''"], "data.delimiter='': expected one character."),
        (["data.quote=ab"], "data.quote='ab': expected one character, or '' for none."),
        (["data.columns=[y,u,i]"], "data.columns names what data.header=true says the file names itself."),
        (["data.header=false"], "data.header=false: data.columns has to name the columns"),
        (
            ["data.header=false", "data.columns=[y,users,i]", "data.categorical=[user,i]"],
            "data.categorical: there is no 'user' in data.columns. Did you mean 'users'? Allowed: y, users, i.",
        ),
        (["data.header=false", "data.columns=[y,u,i,i]"], "data.columns: 'i' stands there twice."),
        (["data.val_fraction=0"], "data.val_fraction=0 leaves no rows for val. Set it, or data.val_path."),
        (["data.val_fraction=0.5", "data.test_fraction=0.5"], "leaves nothing to train on: expected less than 1"),
        (["data.in_memory=maybe"], "data.in_memory=maybe: expected true or false or auto."),
        (["data.min_count=0"], "data.min_count=0: expected a whole number > 0."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_cannot_work(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose([*CSV, *overrides])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_settings_that_work() -> None:
    assert compose(CSV).data.split == "random"
    assert compose([*CSV, "data.train_path=[a.csv,b.csv]", "data.val_path=c", "data.val_fraction=0"])
    assert compose([*CSV, "data.categorical=[]", "data.dense=[u]", "data.dense_transform=bucketize"])
    criteo = compose(["experiment=recsys/deepfm_synthetic", "data=recsys/criteo"]).data
    assert (len(criteo.columns), len(criteo.dense), len(criteo.categorical)) == (40, 13, 26)
    assert (criteo.delimiter, criteo.quote) == ("\t", "")


@pytest.mark.parametrize("key", ["train_path", "label", "categorical"])
def test_what_only_the_user_knows_is_asked_for(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{key}"):
        compose([override for override in CSV if f".{key}=" not in override])
    assert f"{key}: ???" in (CONF / "csv.yaml").read_text()
