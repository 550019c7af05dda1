"""Reading the files of MovieLens. A line that is not as it should be is named with its file and number."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from trilab.errors import UserError, nearest

Ids = NDArray[np.int64]

_NUMBER = r"\d{1,18}"
#: A line of ratings: four numbers, tab-separated in MovieLens 100K and in the NCF paper's files, by `::` in 1M.
RATING = re.compile(rf"{_NUMBER}(\t|::){_NUMBER}\1{_NUMBER}\1{_NUMBER}")
#: `(user,item)` and the items to rank it among.
CANDIDATES = re.compile(rf"\({_NUMBER},{_NUMBER}\)(\t{_NUMBER}){{99}}")
#: NCF item and MovieID.
ITEM_PAIR = re.compile(rf"{_NUMBER}\t{_NUMBER}")
RATING_MEANS = "4 whole numbers (user, item, rating, time)"
CANDIDATES_MEAN = "(user,item) and 99 items, tab-separated"

_ID = r"(?P<id>\d{1,9})"
#: Number, age, gender and occupation.
_USER = {
    "100k": re.compile(_ID + r"\|(?P<age>\d{1,3})\|(?P<gender>[MF])\|(?P<occupation>[^|]+)\|[^|]*"),
    "1m": re.compile(_ID + r"::(?P<gender>[MF])::(?P<age>\d{1,3})::(?P<occupation>\d+)::.*"),
}
_USER_MEANS = {
    "100k": "number|age|gender (M or F)|occupation|zip code",
    "1m": "number::gender (M or F)::age::occupation::zip code",
}
_FLAGS = r"(?P<genres>[01](?:\|[01]){18})"
#: Number, year where it is known, and genres.
_ITEM = {
    "100k": re.compile(_ID + r"\|.*\|(?:\d\d?-[A-Z][a-z]{2}-(?P<year>\d{4}))?\|[^|]*\|[^|]*\|" + _FLAGS),
    "1m": re.compile(_ID + r"::.*?(?:\((?P<year>\d{4})\))?\s*::(?P<genres>[^:]+)"),
}
_ITEM_MEANS = {
    "100k": "number|title|release date|video release date|address|19 flags of 0 or 1",
    "1m": "number::title (year)::genre|genre...",
}

OCCUPATIONS = (
    "administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive", "healthcare",
    "homemaker", "lawyer", "librarian", "marketing", "none", "other", "programmer", "retired", "salesman", "scientist",
    "student", "technician", "writer",
)  # fmt: skip
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
#: The youngest of MovieLens 1M's age groups; the first is of those under 18.
AGE_GROUPS = (1, 18, 25, 35, 45, 50, 56)
#: Ids of release years: 0 unknown, 1 before 1930, then five years each to 1995-1999, 2000 and later.
YEARS = 17


def read_numbers(path: Path, line: re.Pattern[str], columns: int, means: str, header: bool = False) -> Ids:
    """A file of whole numbers as (rows, columns).

    Args:
        path: of the file.
        line: what each line looks like.
        columns: numbers of a line.
        means: the same in words.
        header: leave the first line out.
    """
    raw = path.read_bytes()
    if header:
        raw = raw.partition(b"\n")[2]
    if not raw:
        raise UserError(f"{path} is empty.")
    # What stands between the numbers becomes a tab, so that one fast reader serves all these formats.
    table = raw.translate(None, b"()\r").replace(b"::", b"\t").replace(b",", b"\t")
    names = [str(column) for column in range(columns)]
    try:
        read = pa.csv.read_csv(
            pa.BufferReader(table),
            read_options=pa.csv.ReadOptions(column_names=names),
            parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.int64()), null_values=[]),
        )
    except pa.ArrowInvalid as error:
        for number, text in enumerate(raw.decode("latin-1").split("\n"), 1 + header):
            if not line.fullmatch(text.rstrip("\r")):
                raise corrupt(path, number, text, means) from None
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from None
    return np.stack([column.to_numpy() for column in read.columns], 1)


def read_text(path: Path, line: re.Pattern[str], means: str) -> list[re.Match[str]]:
    """A small file by its lines, in Latin-1."""
    lines = path.read_bytes().decode("latin-1").split("\n")  # splitlines() would break at Latin-1's 0x85
    if not any(lines):
        raise UserError(f"{path} is empty.")
    matches = []
    for number, text in enumerate(lines if lines[-1] else lines[:-1], 1):
        match = line.fullmatch(text.rstrip("\r"))
        if match is None:
            raise corrupt(path, number, text, means)
        matches.append(match)
    return matches


def corrupt(path: Path, number: int, text: str, means: str) -> UserError:
    """The error for a line."""
    shown = repr(text if len(text) <= 60 else f"{text[:60]}...")
    return UserError(f"{path}, line {number}: {shown}, where {means} is expected.")


def check_range(path: Path, values: Ids, low: int, high: int, name: str) -> None:
    """Raises UserError for the first of a file's numbers, one a line, that is out of range."""
    wrong = (values < low) | (values > high)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{path}, line {row + 1}: {name} {values[row]}, where {low} to {high} are allowed.")


def read_users(path: Path, dataset: str, numbers: Ids) -> dict[str, Ids]:
    """Ids of `gender` (0 F, 1 M), `age` (by `AGE_GROUPS`) and `occupation` (by `OCCUPATIONS`, or MovieLens 1M's own).

    Args:
        path: of u.user or users.dat.
        dataset: which of them.
        numbers: (users,) as the file has them.
    """
    lines = read_text(path, _USER[dataset], _USER_MEANS[dataset])
    rows = _rows(path, lines, numbers, "user")
    ages = np.array([int(line["age"]) for line in lines])
    occupations = [line["occupation"] for line in lines]
    known = OCCUPATIONS if dataset == "100k" else tuple(map(str, range(len(OCCUPATIONS))))
    codes = _codes(path, occupations, known, "an occupation")
    values = {
        "gender": np.array([int(line["gender"] == "M") for line in lines]),
        "age": np.searchsorted(AGE_GROUPS[1:], ages, side="right"),
        "occupation": np.array(codes),
    }
    return {name: column[rows].astype(np.int64) for name, column in values.items()}


def read_items(path: Path, dataset: str, numbers: Ids) -> tuple[Ids, NDArray[np.float32]]:
    """Release years as (items,) ids, see `YEARS`; and genres as (items, 19) flags, by `GENRES`.

    Args:
        path: of u.item or movies.dat.
        dataset: which of them.
        numbers: (items,) as the file has them.
    """
    lines = read_text(path, _ITEM[dataset], _ITEM_MEANS[dataset])
    rows = _rows(path, lines, numbers, "item")
    years = np.array([int(line["year"] or 0) for line in lines])
    buckets = np.where(years > 0, 1 + np.clip((years - 1925) // 5, 0, YEARS - 2), 0)
    flags = np.zeros((len(lines), len(GENRES)), np.float32)
    for row, line in enumerate(lines):
        genres = line["genres"].split("|")
        if dataset == "100k":
            flags[row] = [float(flag) for flag in genres]
        else:
            flags[row, _codes(path, genres, GENRES, "a genre", row + 1)] = 1.0
    return buckets[rows].astype(np.int64), flags[rows]


def _codes(path: Path, names: Sequence[str], known: Sequence[str], what: str, line: int | None = None) -> list[int]:
    """The place of each name among those that are known; of a file's lines, or of those of one line."""
    place = {name: code for code, name in enumerate(known)}
    for number, name in enumerate(names, 1):
        if name not in place:
            raise UserError(
                f"{path}, line {line or number}: {name!r} is not {what} of MovieLens.{nearest(name, known)}"
            )
    return [place[name] for name in names]


def _rows(path: Path, lines: list[re.Match[str]], numbers: Ids, name: str) -> list[int]:
    """The line of each number."""
    place = {int(line["id"]): row for row, line in enumerate(lines)}
    missing = next((number for number in numbers.tolist() if number not in place), None)
    if missing is not None:
        raise UserError(f"{path} has no line for {name} {missing}. Is the file cut short?")
    return [place[number] for number in numbers.tolist()]
