"""A sweep's progress while it runs: a line for each run that ends, and how much is left.

It reads the files that runs leave in the sweep's folder, so that it is the same wherever they run.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from trilab.sweeps.outcome import Outcome, winners

if TYPE_CHECKING:
    from trilab.sweeps.sweep import Sweep

#: Seconds between two looks at the folder.
_LOOK_S = 0.3


@contextlib.contextmanager
def watching(sweep: "Sweep") -> Iterator[None]:
    """Tells of the runs that end inside, on the standard error stream.

    On a terminal a line for each stays, and one below them is renewed in place; elsewhere (a file, CI) there are only
    those lines. A sweep that is not `quiet` has one run, which tells of itself; then only the store is told.
    """
    console = Console(stderr=True)
    watch = _Watch(sweep)
    if not sweep.quiet:
        shown: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        say: Callable[[str], None] = lambda line: None  # noqa: E731
    elif console.is_terminal:
        live = Live(get_renderable=watch.status, console=console, refresh_per_second=2, transient=True)
        shown = live
        say = lambda line: live.console.print(Text(line), soft_wrap=True)  # noqa: E731
    else:
        shown = contextlib.nullcontext()
        say = lambda line: print(f"{line} · {watch.left()}", file=sys.stderr, flush=True)  # noqa: E731
    stopping = threading.Event()

    def work() -> None:
        while not stopping.wait(_LOOK_S):
            watch.look(say)

    thread = threading.Thread(target=work, name="trilab-watch", daemon=True)
    with shown:
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()
            watch.look(say)


class _Watch:
    """What is known of a sweep that is running."""

    def __init__(self, sweep: "Sweep") -> None:
        self._sweep = sweep
        self._told: set[int] = set()
        self._begun: float | None = None

    def look(self, say: Callable[[str], None]) -> None:
        """Tells of what has ended since the last look."""
        launched = self._sweep.launched
        if launched and self._begun is None:
            self._begun = time.monotonic()
        new = [number for number in launched if number not in self._told]
        ended = [outcome for number in new if (outcome := self._sweep.outcome(number)) is not None]
        for outcome in sorted(ended, key=lambda outcome: outcome.ended):
            self._told.add(outcome.number)
            say(f"{self._count()} {outcome.name}: {_how(outcome)}")
        if ended:
            self._sweep.note()

    def _count(self) -> str:
        before = len(self._sweep.earlier.finished)
        return f"[{before + len(self._told)}/{self._sweep.total}]"

    def left(self) -> str:
        """What is still to come, the best so far, and when it will be over."""
        sweep = self._sweep
        ended = [outcome for number in list(self._told) if (outcome := sweep.outcome(number)) is not None]
        failed = sum(outcome.status != "FINISHED" for outcome in ended)
        left = max(0, sweep.total - len(sweep.earlier.finished) - len(self._told))
        parts = [f"{left} left"] + ([f"{failed} failed"] if failed else [])
        if found := winners(sweep.outcomes()):
            parts.append(f"best {'; '.join(f'{own.name} ({own.words})' for own in found[:3])}")
        if left and self._told and self._begun is not None:
            parts.append(_end((time.monotonic() - self._begun) / len(self._told) * left))
        return ", ".join(parts)

    def status(self) -> Text:
        """The line that is renewed in place."""
        done = self._count() if self._sweep.total else "starting"
        return Text(f"{done} {self.left() if self._sweep.total else ''}", overflow="ellipsis", no_wrap=True)


def _how(outcome: Outcome) -> str:
    if outcome.status != "FINISHED":
        return f"failed: {outcome.shown}"
    pruned = "pruned, " if outcome.pruned else ""
    return f"{pruned}{outcome.words or outcome.shown}, {outcome.seconds:.1f} s"


def _end(seconds: float) -> str:
    """When something is over that takes so long: `about 2 min left (14:32)`."""
    at = datetime.now() + timedelta(seconds=seconds)
    return f"about {duration(seconds)} left ({at:%H:%M}{f' on {at:%d %B}' if seconds > 20 * 3600 else ''})"


def duration(seconds: float) -> str:
    """Roughly: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
