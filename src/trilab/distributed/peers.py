"""The other processes of a run over several devices, as rank 0 starts them, watches them and ends them.

Rank 0 is the process that the run was started in. It alone has the MLflow run and the checkpoints' files. The others
are started when the training is, with the job itself (`trilab.distributed.rank`), not with the command that led to it:
whatever launched the run, there is no second Hydra, no second sweep and no second run.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies.launchers.launcher import _Launcher

from trilab.config.job import Job
from trilab.distributed.strategy import Ranks, SharedBatches
from trilab.errors import UserError
from trilab.runtime import DeviceType

#: Longest wait for the others, in seconds: to end with rank 0, and to end once their input is closed.
_END_S, _STOP_S = 30.0, 5.0
#: Seconds between two looks at the others, and until a rank 0 that their end has left waiting is woken.
_LOOK_S, _WAKE_S = 0.5, 5.0
#: What an error says that comes of another rank's end.
_OF_OTHERS = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "process group")


class Peers(_Launcher):
    """Ranks 1 and up of a run.

    Args:
        job: what all of them run.
        size: ranks in all.
        folder: of the run; each rank's output goes to a file there.
        resume: checkpoint that the training goes on from.
        checkpoint: to test where nothing is trained.
    """

    def __init__(self, job: Job, size: int, folder: Path, resume: Path | None, checkpoint: Path | None) -> None:
        self.size = size
        self._job, self._folder = job, folder
        self._resume, self._checkpoint = resume, checkpoint
        self._processes: list[subprocess.Popen[bytes]] = []
        self._busy = False
        self._port = 0

    def strategy(self, device: DeviceType) -> SharedBatches:
        """Rank 0's."""
        self._port = _free_port()
        return SharedBatches(Ranks(0, self.size, self._port), devices(device, self.size), self)

    @property
    def is_interactive_compatible(self) -> bool:
        return True

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Runs Lightning's fit or test here, with the others running theirs.

        Raises:
            UserError: another rank has died, or has failed while this one had not.
        """
        # Lightning's own would wait for the others in the middle of a signal, which they know nothing of.
        trainer._signal_connector._sigterm_notifier_fn = lambda signum, frame: None
        if not self._processes:
            prepare_network()
            self._start()
        self._busy = True
        try:
            return function(*args, **kwargs)
        except Exception as error:
            lost = self._lost(error)
            if lost is None:
                raise
            raise UserError(lost) from error
        finally:
            self._busy = False

    def kill(self, signum: Any) -> None:
        """Lightning's way of passing a signal on. The others end when rank 0 closes their input."""

    def close(self) -> None:
        """Ends the others and the connection to them."""
        ended_well = sys.exc_info()[0] is None
        for process in self._processes:
            if ended_well:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_END_S)
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            assert process.stdout is not None
            process.stdout.close()
        for process in self._processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []
        if torch.distributed.is_initialized():
            with contextlib.suppress(Exception):  # of a connection that is broken already
                torch.distributed.destroy_process_group()
        for name in ("MASTER_ADDR", "MASTER_PORT"):  # Lightning's, and wrong for the next run of this process
            os.environ.pop(name, None)

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for rank in range(1, self.size):
            order = {
                "rank": rank,
                "size": self.size,
                "port": self._port,
                "config": self._job.config,
                "choices": dict(self._job.choices),
                "overrides": self._job.overrides,
                "folder": str(self._folder),
                "resume": str(self._resume) if self._resume else None,
                "checkpoint": str(self._checkpoint) if self._checkpoint else None,
                "path": sys.path,
            }
            with self._output(rank).open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "trilab.distributed.rank"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    start_new_session=True,  # a terminal's Ctrl-C is rank 0's to handle
                )
            self._processes.append(process)
            assert process.stdin is not None
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        for rank, process in enumerate(self._processes, 1):
            assert process.stdout is not None
            # torch would wait half an hour, deaf to signals, for one that does not come.
            if not process.stdout.readline():
                raise UserError(f"rank {rank} of {self.size} {_how(process.wait(), self._output(rank))}")
        threading.Thread(target=self._watch, daemon=True).start()

    def _output(self, rank: int) -> Path:
        return self._folder / f"rank_{rank}.log"

    def _lost(self, error: BaseException) -> str | None:
        """What became of another rank, where that is what an error here comes of."""
        text = f"{type(error).__name__} {error}".lower()
        if not any(word in text for word in _OF_OTHERS):
            return None
        for rank, process in enumerate(self._processes, 1):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            if process.returncode:
                return f"rank {rank} of {self.size} {_how(process.returncode, self._output(rank))}"
        return None

    def _watch(self) -> None:
        """Wakes a rank 0 that waits on a GPU for one that has died; on the CPU its connection tells it."""
        while self._processes:
            if self._busy and any(process.poll() for process in self._processes):
                time.sleep(_WAKE_S)
                if self._busy and torch.distributed.is_initialized() and torch.distributed.get_backend() == "nccl":
                    with contextlib.suppress(Exception):
                        torch.distributed.distributed_c10d._abort_process_group()
                return
            time.sleep(_LOOK_S)


def devices(device: DeviceType, size: int) -> list[torch.device]:
    """Of each rank."""
    return [torch.device(device, rank) if device == "cuda" else torch.device(device) for rank in range(size)]


def prepare_network() -> None:
    """The ranks are of one machine, whose name need not lead to an address."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _how(code: int, output: Path) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
    said = lines[-1].strip().removeprefix("trilab: ") if lines else f"exit code {code}"
    return f"failed: {said} (see {output})"
