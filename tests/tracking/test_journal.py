"""The file that runs record into before the store has it."""

import json
import os
import random
from pathlib import Path

import pytest

from trilab.tracking import journal as module
from trilab.tracking.journal import Busy, Journal


def values(journal: Journal) -> list[int]:
    """What was not sent, struck off as it is read."""
    found: list[int] = []
    while entries := journal.pending():
        found += [record["v"] for record, _ in entries]
        journal.strike(entries)
    return found


def test_what_was_appended_and_not_struck_off_is_there_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for value in range(10):
        journal.append(json.dumps({"v": value}))
    journal.strike(journal.pending()[:4])
    journal.close()
    again = Journal(tmp_path)
    assert values(again) == [4, 5, 6, 7, 8, 9]
    assert again.is_empty()


def test_a_line_that_was_cut_off_is_left_out_and_no_other(tmp_path: Path) -> None:
    for cut in range(1, 9):
        journal = Journal(tmp_path)
        journal.append('{"v": 1}')
        journal.close()
        with (tmp_path / "journal.jsonl").open("r+") as file:
            file.seek(0, os.SEEK_END)
            file.write('{"v": 2}'[:cut] if cut < 8 else '{"v": 2')
        again = Journal(tmp_path)
        again.append('{"v": 3}')
        assert values(again) == [1, 3]
        again.remove()
        tmp_path.mkdir()


def test_nobody_opens_a_journal_that_is_open(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(Busy):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_appending_sending_full_disks_and_restarts_keeps_order_and_count(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONG", 200)
    monkeypatch.setattr(module, "_CHUNK", 64)
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    write, random_ = os.write, random.Random(seed)
    full = False

    def limited(fd: int, data: bytes) -> int:
        if not full:
            return write(fd, data)
        if random_.random() < 0.5:
            return write(fd, data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", limited)
    journal, count, seen = Journal(tmp_path), 0, []
    for _ in range(2000):
        act = random_.choice(["append"] * 6 + ["send", "send", "fail", "full", "restart"])
        if act == "append":
            journal.append(json.dumps({"v": count, "text": "x" * random_.randrange(50)}))
            count += 1
        elif act == "send" and (entries := journal.pending()):
            some = entries[: random_.randint(1, len(entries))]
            seen += [record["v"] for record, _ in some]
            journal.strike(some)
            journal.give_back()
        elif act == "fail":
            journal.pending()
            journal.give_back()
        elif act == "full":
            full = not full
        elif act == "restart" and not journal.held and not full:
            journal.close()
            journal = Journal(tmp_path)
    full = False
    seen += values(journal)
    # A record may be sent twice, where striking it off could not be written; the store then has it once.
    first_seen = list(dict.fromkeys(seen))
    assert first_seen == list(range(count))
    assert len(seen) <= count * 1.2


def test_a_long_file_is_shortened_when_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONG", 10_000)
    journal = Journal(tmp_path)
    for value in range(5000):
        journal.append(json.dumps({"v": value}))
        if value % 100 == 99:
            entries = journal.pending()
            journal.strike(entries[:-10])  # the sender is always a little behind
    assert (tmp_path / "journal.jsonl").stat().st_size < 25_000
