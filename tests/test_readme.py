"""What the README tells a reader to do works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import FEW_STEPS, SMALL

from trilab.cli import COMMANDS, main
from trilab.config.preflight import preflight

TEXT = (Path(__file__).parents[1] / "README.md").read_text()
COMMAND_LINES = sorted({line.partition("#")[0].strip() for line in re.findall(r"^    (trilab .*)$", TEXT, re.M)})


def test_the_example_of_a_model_of_ones_own_runs(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+?\.(?:py|yaml))\b.*?\n(.*?)```", TEXT, re.DOTALL)
    assert [path for path, _ in blocks] == ["my_models/wide.py", "my_conf/model/vision/wide.yaml"]
    for path, content in blocks:
        (workdir / path).parent.mkdir(parents=True, exist_ok=True)
        (workdir / path).write_text(content)
    monkeypatch.syspath_prepend(str(workdir))
    [command] = [line for line in COMMAND_LINES if "my_conf" in line and "wide" in line]
    _, subcommand, *arguments = shlex.split(command)
    with pytest.raises(SystemExit) as raised:
        main([subcommand, *arguments, *FEW_STEPS, *SMALL["vision"], "tracking.system_metrics=false"])
    assert raised.value.code == 0


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if "my_conf" not in line])
def test_every_command_line_is_valid(line: str) -> None:
    _, subcommand, *arguments = shlex.split(line.replace("RUN_ID", "0" * 32))
    assert subcommand in COMMANDS
    if subcommand == "train" and "--cfg" not in arguments:
        multirun = "-m" in arguments
        preflight([argument for argument in arguments if argument != "-m"], None, multirun)
