"""The files of MovieLens and of the NCF paper's split of it: which are needed, and where they come from."""

import shutil
import tempfile
import urllib.request
import zipfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from trilab.errors import UserError

Dataset = Literal["100k", "1m"]
Split = Literal["latest", "ncf"]

#: Harper & Konstan 2015, The MovieLens Datasets, https://doi.org/10.1145/2827872.
GROUPLENS = "https://files.grouplens.org/datasets/movielens/"
#: He et al. 2017, Neural Collaborative Filtering, https://arxiv.org/abs/1708.05031.
NCF = "https://raw.githubusercontent.com/hexiangnan/neural_collaborative_filtering/master/Data/"

TRAIN, TEST, NEGATIVES = "ml-1m.train.rating", "ml-1m.test.rating", "ml-1m.test.negative"
#: Which MovieID the NCF paper's item number stands for; not published, and worked out from ratings.dat without it.
ITEM_MAP = "ml-1m.itemmap.tsv"

_RATINGS = {"100k": "u.data", "1m": "ratings.dat"}
_USERS = {"100k": "u.user", "1m": "users.dat"}
_ITEMS = {"100k": "u.item", "1m": "movies.dat"}
#: A host that does not answer is given up after so many seconds; urllib would wait minutes.
_TIMEOUT_S = 20.0


class MovieLensFiles:
    """The folder of one of the sets, `<root>/ml-100k` or `<root>/ml-1m`.

    Args:
        dataset: which.
        root: folder of all data sets.
    """

    def __init__(self, dataset: Dataset, root: str) -> None:
        self.dataset = dataset
        self.folder = Path(root).absolute() / f"ml-{dataset}"
        self.ratings = self.folder / _RATINGS[dataset]
        self.users = self.folder / _USERS[dataset]
        self.items = self.folder / _ITEMS[dataset]
        self.item_map = self.folder / ITEM_MAP

    def provide(self, split: Split, users: bool, items: bool, download: bool) -> None:
        """Sees to it that the files are there.

        Args:
            split: of the ratings.
            users: whether features of users are needed.
            items: whether features of items are needed.
            download: fetch what is missing.

        Raises:
            UserError: files are missing.
        """
        needed = self._needed(split, users, items)
        if not (missing := self._missing(needed)):
            return
        why = "data.download is false"
        if download:
            try:
                self._download(missing)
            except (OSError, HTTPException, zipfile.BadZipFile) as error:  # URLError is an OSError
                why = f"the download failed ({(str(error).strip() or repr(error)).splitlines()[0]})"
            else:
                why = "they are not in the download either"
            if not (missing := self._missing(needed)):
                return
        archive, single = self._sources(missing)
        sources = [f"unpack {archive}" if archive else "", f"fetch each ml-1m.* from {NCF}" if single else ""]
        raise UserError(
            f"MovieLens {self.dataset}: {', '.join(missing)} not found in {self.folder}, and {why}. To put them "
            f"there, {' and '.join(filter(None, sources))}, or set TRILAB_DATA_DIR to the folder that holds "
            f"{self.folder.name}."
        )

    def _needed(self, split: Split, users: bool, items: bool) -> list[str]:
        names = [TRAIN, TEST, NEGATIVES] if split == "ncf" else [self.ratings.name]
        if users:
            names.append(self.users.name)
        if items:
            names.append(self.items.name)
            if split == "ncf" and not self.item_map.is_file():
                names.append(self.ratings.name)
        return names

    def _missing(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if not (self.folder / name).is_file()]

    def _sources(self, names: Collection[str]) -> tuple[str, list[str]]:
        """The archive that some of the files are in, or an empty string; and the files that are published singly."""
        single = [name for name in names if name in (TRAIN, TEST, NEGATIVES)]
        return f"{GROUPLENS}{self.folder.name}.zip" if len(single) < len(names) else "", single

    def _download(self, missing: Sequence[str]) -> None:
        """Each file appears whole or not at all; what is there already stays as it is."""
        archive, single = self._sources(missing)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder.parent, prefix=f".{self.folder.name}-") as temporary:
            arrived = Path(temporary) / "files"
            arrived.mkdir()
            for name in single:
                _fetch(NCF + name, arrived / name)
            if archive:
                _fetch(archive, arrived.with_name("archive.zip"))
                _unpack(arrived.with_name("archive.zip"), arrived)
            self.folder.mkdir(exist_ok=True)
            for file in arrived.iterdir():
                if not (self.folder / file.name).exists():
                    file.replace(self.folder / file.name)
        with suppress(OSError):  # not empty
            self.folder.rmdir()


def _fetch(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file)
        expected = response.headers.get("Content-Length")
    if expected is not None and path.stat().st_size != int(expected):
        raise OSError(f"{url} ended after {path.stat().st_size:,} of {int(expected):,} bytes")


def _unpack(archive: Path, folder: Path) -> None:
    """The files of an archive, without its folders. What is damaged does not fit its checksum, and raises."""
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            if not member.is_dir():
                with content.open(member) as source, (folder / Path(member.filename).name).open("wb") as target:
                    shutil.copyfileobj(source, target)
