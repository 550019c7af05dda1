"""Several processes that record to one SQLite store for a while: is every point there afterwards, and was one refused?

    python benchmarks/eight_processes.py [--processes 8] [--seconds 600] [--rate 50] [--folder DIR]

Each process has a run open and records two metrics a step, `--rate` steps a second. At the end the points of each run
are counted in the database, and their values compared with what was recorded; what any process wrote to its standard
error stream is searched for a locked database.
"""

import argparse
import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

#: One of the processes: prints how many steps it recorded, and the longest that one took, in milliseconds.
RECORDER = """
    import sys, time
    from trilab.tracking.run import open_run
    from trilab.tracking.settings import Tracking

    uri, name, seconds, pause = sys.argv[1], sys.argv[2], float(sys.argv[3]), 1 / float(sys.argv[4])
    step, longest = 0, 0.0
    with open_run(Tracking("many", uri=uri, flush_s=0.2, wait_s=120), name, {}) as run:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            start = time.perf_counter()
            run.outbox.metrics({"a": step / 7, "b": -float(step)}, step)
            longest = max(longest, time.perf_counter() - start)
            step += 1
            time.sleep(pause)
    assert not run.unsent
    print(step, f"{1000 * longest:.1f}")
"""


@dataclass(frozen=True)
class Found:
    """What there is of one process.

    Args:
        recorded: points.
        stored: points with the value that was recorded.
        status: of the run.
        exit_code: of the process.
        complaints: lines about a locked database.
        longest_ms: that a step waited for its two metrics to be taken.
    """

    recorded: int
    stored: int
    status: str
    exit_code: int
    complaints: int
    longest_ms: float


def record(folder: Path, processes: int, seconds: float, rate: float) -> list[Found]:
    """Starts the processes on a fresh store in a folder, waits for them, and looks."""
    database = folder / "mlflow.db"
    uri = f"sqlite:///{database}"
    environment = {**os.environ, "TRILAB_SPOOL": str(folder / "spool")}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RECORDER), uri, f"p{number}", str(seconds), str(rate)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for number in range(processes)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=seconds + 600) for process in started]
    found = []
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for number, (process, (said, complained)) in enumerate(zip(started, outputs, strict=True)):
            if process.returncode:
                sys.stderr.write(complained)
            steps, longest = (said or "0 nan").split()
            run_id, status = connection.execute(
                "SELECT run_uuid, status FROM runs WHERE name = ?", (f"p{number}",)
            ).fetchone() or ("", "none")
            stored = sum(
                value == (step / 7 if name == "a" else -float(step))
                for name, step, value in connection.execute(
                    "SELECT key, step, value FROM metrics WHERE run_uuid = ? AND key IN ('a', 'b')", (run_id,)
                )
            )
            complaints = sum("locked" in line for line in complained.splitlines())
            found.append(Found(2 * int(steps), stored, status, process.returncode, complaints, float(longest)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Processes that record to one SQLite store.")
    parser.add_argument("--processes", type=int, default=8, help="that record at once")
    parser.add_argument("--seconds", type=float, default=600, help="for how long")
    parser.add_argument("--rate", type=float, default=50, help="steps a second of each process, two metrics a step")
    parser.add_argument("--folder", type=Path, help="of the store; one that is removed at the end, if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        start = time.monotonic()
        found = record(folder, options.processes, options.seconds, options.rate)
        print(f"{options.processes} processes, {time.monotonic() - start:.0f} s")
        print("| process | exit code | status | points recorded | in the store | 'locked' said | longest step, ms |")
        print("|---|---|---|---|---|---|---|")
        for number, one in enumerate(found):
            print(
                f"| {number} | {one.exit_code} | {one.status} | {one.recorded:,} | {one.stored:,} | {one.complaints} | "
                f"{one.longest_ms:.1f} |"
            )
        lost = sum(one.recorded - one.stored for one in found)
        print(f"{sum(one.recorded for one in found):,} points recorded, {lost} lost")


if __name__ == "__main__":
    main()
