"""A forked process is what a started one is: output, exit code, folder, environment, signals, its end told once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import warm

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the real thing is started")]

TELL = """
import os, sys
print(os.getcwd(), os.environ.get("ONLY_HERE"), os.environ.get("HOME"), sys.argv[1:], os.getppid() != os.getpid())
print("beside", file=sys.stderr)
sys.exit(7)
"""


def test_it_tells_what_a_started_one_tells(tmp_path: Path) -> None:
    environment = {"ONLY_HERE": "yes", "PATH": os.environ["PATH"]}
    told = []
    for process in (
        warm.Python("-c", TELL, "a", "b c", cwd=tmp_path, env=environment, stderr=subprocess.PIPE),
        subprocess.Popen([sys.executable, "-c", TELL, "a", "b c"], cwd=tmp_path, env=environment,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True),
    ):  # fmt: skip
        told.append((*process.communicate(timeout=60), process.returncode))
    assert told[0] == told[1]
    assert told[0] == (f"{tmp_path} yes None ['a', 'b c'] True\n", "beside\n", 7)


def test_a_command_of_trilab_and_its_mistakes(tmp_path: Path) -> None:
    wrong = warm.run("trian", cwd=tmp_path)
    real = subprocess.run([sys.executable, "-m", "trilab", "trian"], cwd=tmp_path, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (real.returncode, real.stdout, real.stderr)
    assert wrong.returncode == 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it_and_how_it_ended_is_known(signum: signal.Signals) -> None:
    process = warm.Python("-c", "import time; print('here', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    assert process.poll() is None
    assert process.pid in [child.pid for child in warm.children()]
    process.send_signal(signum)
    process.communicate(timeout=30)
    assert process.returncode == -signum
    assert process.poll() == process.returncode
    assert process.pid not in [child.pid for child in warm.children()]


def test_two_of_them_draw_different_numbers() -> None:
    code = "import random, tempfile, uuid; print(random.random(), uuid.uuid4(), tempfile.mkdtemp())"
    drawn = [warm.Python("-c", code).communicate()[0].split() for _ in range(2)]
    assert not set(drawn[0]) & set(drawn[1])
