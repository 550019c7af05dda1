"""Small files in the formats of MovieLens and of the NCF paper's split."""

from pathlib import Path


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("latin-1"))


def write_100k(root: Path) -> Path:
    folder = root / "ml-100k"
    write(folder / "u.data", [f"{user}\t{user + i}\t{1 + i}\t{1000 + i}" for user in (1, 2, 943) for i in range(4)])
    users = {1: "1|17|F|student|55105", 2: "2|50|M|writer|T8H1N", 943: "943|56|M|other|00000"}
    write(folder / "u.user", [users.get(user, f"{user}|30|M|none|12345") for user in range(1, 944)])
    films = {
        1: ("Légende (1929)", "01-Jan-1929", "", {1, 18}),
        2: ("a|b: c (1995)", "4-Feb-1995", "http://x", {5}),
        267: ("unknown", "", "", {0}),
    }

    def film(number: int) -> str:
        title, date, link, genres = films.get(number, (f"Film {number} (1998)", "01-Jan-1998", "", {8}))
        return f"{number}|{title}|{date}||{link}|" + "|".join(str(int(flag in genres)) for flag in range(19))

    write(folder / "u.item", [film(number) for number in range(1, 1683)])
    return folder


def write_1m(root: Path) -> Path:
    folder = root / "ml-1m"
    order = [(1, 1193), (1, 7), (1, 3952), (2, 20), (2, 7), (6040, 3952), (6040, 20), (6040, 1193)]
    write(folder / "ratings.dat", [f"{user}::{film}::5::{90 - i}" for i, (user, film) in enumerate(order)])
    write(folder / "users.dat", [f"{u}::{'FM'[u % 2]}::{[1, 18, 56][u % 3]}::{u % 21}::02-14" for u in range(1, 6041)])
    write(
        folder / "movies.dat",
        [
            "7::Star Wars: Episode IV (1977)::Action|Sci-Fi",
            "20::Nowhere, The (2000) ::Children's",
            "1193::Métropolis (1926)::Film-Noir",
            "3952::No Year::Western|Drama",
        ],
    )
    return folder


def write_ncf(root: Path) -> Path:
    """Of three users, the last of them with a negative that is the test item."""
    folder = root / "ml-1m"
    train = [(user, item) for user in (0, 1, 6039) for item in range(3)]
    write(folder / "ml-1m.train.rating", [f"{user}\t{item}\t4\t{item}" for user, item in train])
    tests = [(0, 100), (1, 3705), (6039, 200)]
    write(folder / "ml-1m.test.rating", [f"{user}\t{item}\t5\t77" for user, item in tests])
    negatives = [[item if user == 6039 and k == 5 else 300 + user % 7 + k for k in range(99)] for user, item in tests]
    rows = zip(tests, negatives, strict=True)
    write(folder / "ml-1m.test.negative", ["\t".join([f"({u},{i})", *map(str, among)]) for (u, i), among in rows])
    return folder
