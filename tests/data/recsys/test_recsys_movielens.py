import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_movielens import write, write_1m, write_100k, write_ncf

from trilab.data.recsys import movielens_files
from trilab.data.recsys.movielens import MovieLens
from trilab.data.recsys.movielens_checks import check_movielens
from trilab.errors import ConfigError, UserError

ALL = ["gender", "age", "occupation", "year", "genres"]
#: MovieIDs of the made-up ratings.dat in the order of their first appearance.
FILMS = [1193, 7, 3952, 20]


def movielens(root: Path, **options) -> MovieLens:
    settings = {
        "dataset": "100k", "split": "latest", "root": str(root), "download": False, "side_features": [],
        "train_negatives": 4, "recency": None, "eval_negatives": 99, "validation": "latest", "full_ranking": False,
        "cutoffs": [10], "batch_size": 256, "eval_batch_size": 1000, "seed": 1, **options,
    }  # fmt: skip
    return MovieLens(**settings)


def loaded(root: Path, **options) -> MovieLens:
    data = movielens(root, **options)
    data.prepare_data()
    data.setup("fit")
    return data


def of_user(data: MovieLens, user: int) -> torch.Tensor:
    return data.rows(torch.tensor([user]), torch.tensor([0]))[0][0, 2:]


def of_item(data: MovieLens, item: int) -> tuple[dict[str, int], set[str]]:
    ids, dense = data.rows(torch.tensor([0]), torch.tensor([item]))
    names = data.spec.dense_names
    assert set(dense[0].tolist()) <= {0.0, 1.0}
    fields = dict(zip(data.spec.fields, ids[0].tolist(), strict=True))
    return fields, {names[place] for place in dense[0].nonzero().squeeze(1).tolist()}


def test_100k_with_features(tmp_path):
    write_100k(tmp_path)
    data = loaded(tmp_path, side_features=ALL[::-1])
    spec = data.spec
    assert spec.fields == ("user", "item", "gender", "age", "occupation", "year")
    assert spec.cardinalities == (943, 1682, 2, 7, 21, 17)
    assert (spec.dense, spec.dense_names[0], spec.dense_names[4]) == (19, "genre_unknown", "genre_childrens")
    held = data.interactions
    assert data.interactions.train.tolist() == [u * 1682 + u + i for u in (0, 1, 942) for i in (0, 1)]
    assert (held.val.candidates[:, 0].tolist(), held.test.candidates[:, 0].tolist()) == ([2, 3, 944], [3, 4, 945])
    assert of_user(data, 0).tolist()[:3] == [0, 0, 18]  # a student of 17
    assert of_user(data, 1).tolist()[:3] == [1, 5, 20]
    assert of_user(data, 942).tolist()[:3] == [1, 6, 13]
    assert of_user(data, 500).tolist()[:3] == [1, 2, 12]
    assert of_item(data, 0) == ({**of_item(data, 0)[0], "year": 1}, {"genre_action", "genre_western"})
    assert of_item(data, 1) == ({**of_item(data, 1)[0], "year": 15}, {"genre_comedy"})  # 1995-1999
    assert of_item(data, 266) == ({**of_item(data, 266)[0], "year": 0}, {"genre_unknown"})


def test_1m_with_features(tmp_path):
    write_1m(tmp_path)
    data = loaded(tmp_path, dataset="1m", eval_negatives=1, cutoffs=[1], side_features=ALL)
    assert data.spec.cardinalities == (6040, 4, 2, 7, 21, 17)
    assert (data.spec.dense, data.spec.dense_names[0]) == (18, "genre_action")
    held = data.interactions  # times fall from line to line
    assert (held.test.users.tolist(), held.test.candidates[:, 0].tolist()) == ([0, 1, 6039], [0, 3, 2])
    assert (held.val.users.tolist(), held.val.candidates[:, 0].tolist()) == ([0, 6039], [1, 3])
    assert held.train.tolist() == [2, 4 + 1, 6039 * 4]
    assert of_user(data, 0).tolist()[:3] == [1, 1, 1]  # user 1: M, 18-24, occupation 1
    assert of_user(data, 6039).tolist()[:3] == [0, 1, 13]
    years = {film: of_item(data, item)[0]["year"] for item, film in enumerate(FILMS)}
    genres = {film: of_item(data, item)[1] for item, film in enumerate(FILMS)}
    assert years == {1193: 1, 7: 11, 3952: 0, 20: 16}  # before 1930, 1975-1979, unknown, from 2000
    assert genres[7] == {"genre_action", "genre_sci_fi"}
    assert genres[1193] == {"genre_film_noir"}


def test_only_what_is_asked_for_is_a_field(tmp_path):
    write_100k(tmp_path)
    spec = loaded(tmp_path, side_features=["genres", "age"]).spec
    assert (spec.fields, spec.dense) == (("user", "item", "age"), 19)
    spec = loaded(tmp_path, side_features=["year"]).spec
    assert (spec.fields, spec.dense) == (("user", "item", "year"), 0)


def test_the_ncf_split(tmp_path):
    write_ncf(tmp_path)
    data = loaded(tmp_path, dataset="1m", split="ncf")
    held = data.interactions
    assert (data.spec.cardinalities, data.spec.dense) == ((6040, 3706), 0)
    assert held.train.tolist() == [user * 3706 + item for user in (0, 1, 6039) for item in (0, 1)]
    assert held.val.candidates[:, 0].tolist() == [2, 2, 2]
    assert held.test.candidates[:, :3].tolist() == [[100, 300, 301], [3705, 301, 302], [200, 305, 306]]
    (_, _, labels) = next(iter(data.test_dataloader()))
    assert labels.sum(1).tolist() == [1, 1, 0]
    assert (labels == -1).nonzero().tolist() == [[2, 6]]


@pytest.mark.parametrize("source", ["map", "ratings"])
def test_what_the_ncf_items_are_comes_from_a_map_or_from_their_order(tmp_path, source):
    folder = write_ncf(tmp_path)
    write_1m(tmp_path)
    numbers = [*FILMS, *(number for number in range(1, 3707) if number not in FILMS)][:3706]
    write(folder / "movies.dat", [f"{number}::Film (1950)::Drama" for number in sorted(set(numbers) - {3952})]
          + ["3952::Other (1960)::War"])  # fmt: skip
    if source == "map":
        (folder / "ratings.dat").unlink()
        write(folder / "ml-1m.itemmap.tsv", ["ncf_item\tmovie_id", *(f"{i}\t{n}" for i, n in enumerate(numbers))])
    else:
        write(folder / "ratings.dat", [f"{1 + i % 6040}::{number}::3::{i}" for i, number in enumerate(numbers)])
    data = loaded(tmp_path, dataset="1m", split="ncf", side_features=["year"])
    _, items = data.rows(torch.zeros(3, dtype=torch.int64), torch.tensor([1, 2, 3]))[0].split([1, 2], 1)
    assert items.tolist() == [[1, 6], [2, 8], [3, 6]]


def fails(root: Path, **options) -> str:
    with pytest.raises(UserError) as raised:
        loaded(root, **options)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("file", "line", "text", "said"),
    [
        ("u.data", 3, "1\t2\t3", r"u.data, line 3: '1\t2\t3', where 4 whole numbers (user, item, rating, time) is exp"),
        ("u.data", 2, "1\tx\t3\t4", r"u.data, line 2: '1\tx\t3\t4', where"),
        ("u.data", 1, "", "u.data, line 1: '', where"),
        ("u.data", 4, "1\t\t3\t4", r"u.data, line 4: '1\t\t3\t4', where"),
        ("u.data", 4, "1\t1683\t3\t4", "u.data, line 4: item 1683, where 1 to 1682 are allowed."),
        ("u.data", 4, "0\t1\t3\t4", "u.data, line 4: user 0, where 1 to 943 are allowed."),
        ("u.user", 5, "5|x|M|other|1", "u.user, line 5: '5|x|M|other|1', where number|age|gender (M or F)|occupation"),
        ("u.user", 5, "5|1|M|writr|1", "u.user, line 5: 'writr' is not an occupation of MovieLens. Did you mean 'writ"),
        ("u.user", 5, "4|1|M|other|1", "u.user has no line for user 5. Is the file cut short?"),
        ("u.item", 9, "9|Film (1990)|1990||x|1|0", "u.item, line 9: '9|Film (1990)|1990||x|1|0', where number|title|r"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, file, line, text, said):
    path = write_100k(tmp_path) / file
    lines = path.read_bytes().decode("latin-1").split("\n")
    path.write_bytes("\n".join([*lines[: line - 1], text, *lines[line:]]).encode("latin-1"))
    assert said in fails(tmp_path, side_features=ALL)


def test_recency_weighs_what_is_trained_on(tmp_path):
    write_1m(tmp_path)
    data = loaded(tmp_path, dataset="1m", eval_negatives=1, cutoffs=[1], validation="none", recency=1.0)
    held = data.interactions  # times fall from line to line
    assert held.train.tolist() == [1, 2, 4 + 1, 6039 * 4, 6039 * 4 + 3]
    assert held.weights.tolist() == pytest.approx([4 / 3, 2 / 3, 1, 2 / 3, 4 / 3])
    assert loaded(tmp_path, dataset="1m", eval_negatives=1, cutoffs=[1]).interactions.weights is None


def test_recency_says_of_how_many_users_no_order_is_known(tmp_path, capsys):
    folder = write_1m(tmp_path)
    path = folder / "ratings.dat"
    lines = [line.split("::") for line in path.read_text().splitlines()]
    path.write_text("".join("::".join([*line[:3], "7" if line[0] == "1" else line[3]]) + "\n" for line in lines))
    loaded(tmp_path, dataset="1m", eval_negatives=1, cutoffs=[1], recency=1.0)
    assert "data.recency=1: 1 of 6,040 users have one time for all their ratings" in capsys.readouterr().err
    loaded(tmp_path, dataset="1m", eval_negatives=1, cutoffs=[1])
    assert "data.recency" not in capsys.readouterr().err


def test_a_genre_that_is_wrong_is_named(tmp_path):
    folder = write_1m(tmp_path)
    path = folder / "movies.dat"
    path.write_bytes(path.read_bytes().replace(b"Western", b"Westen"))
    said = "movies.dat, line 4: 'Westen' is not a genre of MovieLens. Did you mean 'Western'?"
    assert said in fails(tmp_path, dataset="1m", eval_negatives=1, cutoffs=[1], side_features=["genres"])


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("test.negative", "(1,3705)", "(1,3704)", "is not of the same users and items, line by line, as"),
        ("test.negative", "\t398\n", "\n", "line 1: '(0,100)"),
        ("test.negative", "\t398\n", "\t3706\n", "line 1: an item that is not in 0 to 3705."),
        ("test.negative", "\t398\n", "\t2\n", "line 1: the user has one of these items in ml-1m.train.rating"),
        ("train.rating", "6039\t2", "6040\t2", "line 9: user 6040, where 0 to 6039 are allowed."),
    ],
)
def test_ncf_files_that_do_not_fit(tmp_path, file, old, new, said):
    path = write_ncf(tmp_path) / f"ml-1m.{file}"
    path.write_text(path.read_text().replace(old, new, 1))
    assert said in fails(tmp_path, dataset="1m", split="ncf")


def test_an_empty_file_and_one_that_is_cut_short(tmp_path, capsys):
    folder = write_100k(tmp_path)
    loaded(tmp_path)
    assert "u.data has 12 ratings, and as published 100,000: results will not compare." in capsys.readouterr().err
    (folder / "u.data").write_bytes(b"")
    assert fails(tmp_path).endswith("u.data is empty.")


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({}, "u.data"),
        ({"side_features": ["age"]}, "u.data, u.user"),
        ({"side_features": ["genres"]}, "u.data, u.item"),
        ({"dataset": "1m"}, "ratings.dat"),
        ({"dataset": "1m", "side_features": ALL}, "ratings.dat, users.dat, movies.dat"),
        ({"dataset": "1m", "split": "ncf"}, "ml-1m.train.rating, ml-1m.test.rating, ml-1m.test.negative"),
    ],
)
def test_only_the_files_that_are_needed_are_missed(tmp_path, options, missing):
    message = fails(tmp_path, **options)
    name = "ml-1m" if options.get("dataset") == "1m" else "ml-100k"
    assert f": {missing} not found in {tmp_path / name}, and data.download is false. To put them there, " in message
    assert f"or set TRILAB_DATA_DIR to the folder that holds {name}." in message
    assert ("grouplens.org/datasets/movielens/ml-" in message) == (options.get("split") != "ncf")
    assert ("neural_collaborative_filtering/master/Data/" in message) == (options.get("split") == "ncf")
    assert list(tmp_path.iterdir()) == []


def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: int = 0) -> None:
    """A host that has made-up files, under the addresses of the real ones."""
    host = tmp_path / "host"
    host.mkdir()
    write_ncf(host)
    for folder in (write_1m(host), write_100k(host)):
        with zipfile.ZipFile(host / f"{folder.name}.zip", "w") as archive:
            archive.mkdir(folder.name)
            for file in folder.iterdir():
                if ".rating" not in file.name and ".negative" not in file.name:
                    archive.write(file, f"{folder.name}/{file.name}")
        if damage:
            content = bytearray((host / f"{folder.name}.zip").read_bytes())
            content[damage] ^= 255
            (host / f"{folder.name}.zip").write_bytes(content)
    monkeypatch.setattr(movielens_files, "GROUPLENS", f"{host.as_uri()}/")
    monkeypatch.setattr(movielens_files, "NCF", f"{host.as_uri()}/ml-1m/")


def test_what_is_missing_is_downloaded_and_what_is_there_stays(tmp_path, monkeypatch):
    served(tmp_path, monkeypatch)
    root = tmp_path / "new" / "root"
    assert len(loaded(root, download=True, side_features=ALL).interactions.train) == 6
    assert sorted(path.name for path in (root / "ml-100k").iterdir()) == ["u.data", "u.item", "u.user"]
    changed = (root / "ml-100k" / "u.data").read_bytes().replace(b"\t1003\n", b"\t1999\n")
    (root / "ml-100k" / "u.data").write_bytes(changed)
    (root / "ml-100k" / "u.user").unlink()
    loaded(root, download=True, side_features=["age"])
    assert (root / "ml-100k" / "u.data").read_bytes() == changed
    assert len(loaded(root, dataset="1m", split="ncf", download=True).interactions.train) == 6
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def test_a_download_that_fails_leaves_nothing(tmp_path, monkeypatch):
    served(tmp_path, monkeypatch, damage=300)
    root = tmp_path / "root"
    message = fails(root, download=True)
    assert "u.data not found in" in message
    assert "the download failed (Bad CRC-32 for file" in message
    assert list(root.iterdir()) == []
    monkeypatch.setattr(movielens_files, "NCF", "file:///nowhere/")
    assert "and the download failed (<urlopen error" in fails(root, dataset="1m", split="ncf", download=True)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "ncf"}, "data.split=ncf: the NCF paper's split is of MovieLens 1M, and data.dataset=100k."),
        (
            {"dataset": "1m", "split": "ncf", "eval_negatives": 50},
            "data.eval_negatives=50: the NCF paper's split",
        ),
        ({"side_features": ["age", "age"]}, "age stands there twice."),
        ({"cutoffs": []}, "data.cutoffs=[]: expected one K at least"),
        ({"cutoffs": [5, 5]}, "data.cutoffs=[5, 5]: expected one K at least, and none twice"),
        ({"cutoffs": [10, 100]}, "Choose at most 99, or data.full_ranking=true."),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, options, said):
    with pytest.raises(ConfigError) as raised:
        movielens(tmp_path, **options)
    assert said in str(raised.value)


def test_settings_are_checked_without_torch():
    code = "import sys, trilab.data.recsys.movielens_checks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    check_movielens(
        {"dataset": "1m", "split": "ncf", "side_features": [], "eval_negatives": 99, "full_ranking": True,
         "cutoffs": [200]}
    )  # fmt: skip


# The real files


def counts(data: MovieLens) -> tuple[int, int, int]:
    return data.interactions.users, data.interactions.items, len(data.interactions.train)


def keys_of(held, items: int) -> torch.Tensor:
    return held.users * items + held.candidates[:, 0]


@pytest.mark.realdata
def test_real_100k(real_data):
    data = loaded(real_data, side_features=ALL, full_ranking=True)
    assert counts(data) == (943, 1682, 100_000 - 2 * 943)
    held, known = data.interactions, data.interactions.train
    both = torch.cat([keys_of(held.val, 1682), keys_of(held.test, 1682)])
    assert not torch.isin(both, known).any()
    assert len(torch.cat([both, known]).unique()) == 100_000
    assert of_item(data, 0)[1] == {"genre_animation", "genre_childrens", "genre_comedy"}  # Toy Story
    assert of_user(data, 0).tolist()[:3] == [1, 1, 19]  # 24, M, technician
    _, dense = data.rows(torch.zeros(1682, dtype=torch.int64), torch.arange(1682))
    assert dense.sum() == 2893
    full = data.test_dataloader()[1]
    assert sum(int((labels == 1).sum()) for _, _, labels in full) == 943
    assert sum(int((labels == -1).sum()) for _, _, labels in full) == 100_000 - 943


@pytest.mark.slow
@pytest.mark.realdata
def test_real_1m_in_the_ncf_split(real_data):
    data = loaded(real_data, dataset="1m", split="ncf", side_features=ALL, validation="none")
    held = data.interactions
    assert counts(data) == (6040, 3706, 994_169)
    assert held.val is None
    assert held.test.candidates.shape == (6040, 100)
    assert not np.isin(held.test.users[:, None] * 3706 + held.test.candidates, held.train).any()
    labels = torch.cat([labels for _, _, labels in data.test_dataloader()])
    assert (labels == -1).any(1).sum() == (labels == -1).sum() == 156
    assert of_item(data, 0)[1] == {"genre_drama"}  # MovieID 1193, One Flew Over the Cuckoo's Nest (1975)
    assert of_item(data, 0)[0]["year"] == 11
    batches = data.train_dataloader()
    assert batches.rows == 994_169 * 5
    keys, _ = batches._draw(0)
    drawn = keys[994_169:].long()
    assert not (held.train[torch.searchsorted(held.train, drawn).clamp(max=994_168)] == drawn).any()


@pytest.mark.slow
@pytest.mark.realdata
def test_holding_out_the_latest_rating_gives_the_published_split(real_data, tmp_path):
    """MovieLens' own ratings.dat put together from the NCF split: where one rating is the latest, it is the test."""
    source, folder = real_data / "ml-1m", tmp_path / "ml-1m"
    parts = [np.loadtxt(source / f"ml-1m.{part}.rating", dtype=np.int64) for part in ("train", "test")]
    films = np.loadtxt(source / "ml-1m.itemmap.tsv", dtype=np.int64, skiprows=1)[:, 1]
    rows = np.concatenate(parts)
    rows = rows[np.lexsort((-rows[:, 3], rows[:, 0]))]
    folder.mkdir()
    table = np.stack([rows[:, 0] + 1, films[rows[:, 1]], rows[:, 2], rows[:, 3]], 1)
    np.savetxt(folder / "ratings.dat", table, "%d", "::")
    data = loaded(tmp_path, dataset="1m", validation="none")
    assert counts(data) == (6040, 3706, 994_169)

    numbered = list(dict.fromkeys(table[:, 1].tolist()))  # by first appearance
    users, items = (
        column.tolist() for column in (data.interactions.test.users, data.interactions.test.candidates[:, 0])
    )
    held = {user: numbered[item] for user, item in zip(users, items, strict=True)}
    published = {user: films[item] for user, item, _, _ in parts[1].tolist()}
    by_time: dict[int, dict[int, list[int]]] = {}
    for user, film, _, time in table.tolist():
        by_time.setdefault(user - 1, {}).setdefault(time, []).append(film)
    latest = {user: films_at[max(films_at)] for user, films_at in by_time.items()}
    assert all(held[user] in latest[user] for user in range(6040))
    decided = [user for user in range(6040) if len(latest[user]) == 1]
    assert len(decided) > 1000
    assert all(held[user] == published[user] for user in decided)
