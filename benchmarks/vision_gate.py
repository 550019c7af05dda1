"""How `vision_throughput.py` runs programs in turns: each in a process of its own, which sleeps between its windows.

The program's side is a `Gate` on two file descriptors, the benchmark's side a `Worker`. Lines of JSON go over a pipe
each way, and whoever waits is blocked in a read, so that it takes no processor time from the others. Only the standard
library is imported here, for the program may live in an environment of its own.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Seconds between the end of one program's window and the start of another's: workers of data loaders fill their
#: queues, and threads that wait busily for work fall asleep.
REST_S = 0.2


class Gate:
    """A program's end of the pipes.

    Args:
        requests: file descriptor that requests for windows are read from.
        replies: file descriptor that answers are written to.
    """

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = os.fdopen(requests), os.fdopen(replies, "w")

    def reply(self, **facts: Any) -> None:
        """The first reply says that the program is warm, every later one what a window took."""
        self._replies.write(json.dumps(facts) + "\n")
        self._replies.flush()

    def wait(self) -> bool:
        """Sleeps until another window is wanted; False where none is."""
        return self._requests.readline() == "window\n"


class Worker:
    """A program that is measured; an arm of `trilab.timing.interleave`.

    Args:
        name: of the arm.
        command: starts the program; `{requests}` and `{replies}` in it become the descriptors' numbers.
        folder: that it runs in, and that its output goes to.
        environment: added to the present one.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.peak_mb = 0.0
        self._folder = folder
        folder.mkdir()
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        numbers = {"{requests}": str(requests), "{replies}": str(replies)}
        arguments = [_filled(part, numbers) for part in command]
        with (folder / "output").open("w") as output:
            self._process = subprocess.Popen(
                arguments,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(requests, replies),
            )
        os.close(requests)
        os.close(replies)
        self._answers = os.fdopen(self._replies)

    def ready(self) -> dict[str, Any]:
        """What the program says when it is warm."""
        return self._answer()

    def window(self) -> float:
        time.sleep(REST_S)
        os.write(self._requests, b"window\n")
        answer = self._answer()
        self.peak_mb = max(self.peak_mb, float(answer["peak_mb"]))
        return float(answer["seconds"])

    def close(self) -> None:
        """Lets the program end; after a while, ends it."""
        with contextlib.suppress(OSError):
            os.close(self._requests)
        self._answers.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            sys.exit(f"{self.name} failed:\n{(self._folder / 'output').read_text()[-4000:]}")
        return dict(json.loads(line))


def _filled(text: str, numbers: Mapping[str, str]) -> str:
    for key, number in numbers.items():
        text = text.replace(key, number)
    return text
