"""Which process a run belongs to, so that another can tell whether it is gone."""

import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from trilab.errors import ConfigError

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

_HOST, _SPACE, _PID, _START = "process.host", "process.space", "process.pid", "process.start"


def process_tags() -> dict[str, str]:
    """Tags that name this process for as long as its machine runs."""
    pid = os.getpid()
    return {_HOST: platform.node(), _SPACE: space(), _PID: str(pid), _START: _started(pid) or ""}


@cache
def space() -> str:
    """What process numbers are counted in: this boot of this kernel, and the namespaces of this container.

    Empty where that cannot be told; then no process is ever said to be gone.
    """
    if platform.system() == "Darwin":
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.check_output(["sysctl", "-n", "kern.bootsessionuuid"], text=True, timeout=5).strip()
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}:{_time_namespace()}"
    except OSError:
        return ""


def _time_namespace() -> int:
    # Start times are counted from the boot as this namespace sees it. Linux 5.6 and later.
    with suppress(OSError):
        return Path("/proc/self/ns/time").stat().st_ino
    return 0


def is_gone(tags: dict[str, str]) -> bool:
    """Whether the process of a run has certainly ended. False where that cannot be told from here.

    Args:
        tags: of the run, among them those of `process_tags`.
    """
    if not space() or tags.get(_SPACE) != space() or not tags.get(_START) or not tags.get(_PID, "").isdigit():
        return False
    pid = int(tags[_PID])
    try:
        os.kill(pid, 0)  # /proc may hide the processes of other users; this does not
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    started = _started(pid)
    return started is not None and started != tags[_START]


def _started(pid: int) -> str | None:
    """When a process started, exactly; `ended` for one that only waits for its parent to notice."""
    try:
        # After the name, which may hold anything but ends at the last parenthesis: the state, and 19 fields later the
        # start in clock ticks since the boot (proc_pid_stat(5), fields 3 and 22).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        if platform.system() == "Linux":
            return None
    try:
        process = psutil.Process(pid)
        return "ended" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.3f}"
    except psutil.Error:
        return None


def space_filter() -> str:
    """What MLflow's search finds the running runs of this machine by."""
    return f"attributes.status = 'RUNNING' and tags.`{_SPACE}` = '{space()}'"


def named(tags: dict[str, str]) -> str:
    """A process in words."""
    return f"process {tags.get(_PID, '?')} on {tags.get(_HOST, '?')}"


def require_ended(what: str, runs: "Iterable[StoredRun]") -> None:
    """Raises ConfigError for the first run that goes on in a process, or in one of which that cannot be told from here.

    Args:
        what: they are runs of: `sweep.name=s`.
        runs: of the store, the ended ones among them.
    """
    for run in runs:
        tags = dict(run.data.tags)
        if run.info.status == "RUNNING" and not is_gone(tags):
            raise ConfigError(
                f"{what}: its run {run.info.run_name} is still running, as {named(tags)}. Wait for it, or stop it. "
                "If it was lost with its machine, delete it in the UI."
            )
