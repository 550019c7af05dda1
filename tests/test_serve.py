"""`trilab serve` as a process of its own: what it answers, and that it leaves nothing behind."""

import json
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm
from mlflow.entities import Run
from test_resume import client
from test_train import small, trilab

pytestmark = pytest.mark.slow  # runs through the command line
Runs = Callable[[], list[Run]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(*arguments: str) -> tuple[warm.Trilab, str]:
    """A server, and its address."""
    process = warm.Trilab("serve", *arguments, cwd=Path.cwd())
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if match := re.search(r"(http://\S+)/predict", line):
            return process, match[1]
    raise AssertionError(said)


def post(address: str, content: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{address}/predict", json.dumps(content).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_run_and_a_registered_model_answer_alike_and_stop(runs: Runs, workdir: Path):
    assert trilab("train", *small("rl/double_dqn_cartpole")) == 0
    run = runs()[0].info.run_id
    assert trilab("register", run, "--name", "agent", "--alias", "champion") == 0
    answers = []
    content = {"observations": [[0.01, -0.2, 0.03, 0.4]] * 3}
    for what in (run, "models:/agent@champion", "models:/agent/1", "models:/agent/latest"):
        process, address = start(what)
        try:
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(f"{address}/health", timeout=10) as health:
                assert json.load(health)["run_id"] == run
            answers.append(post(address, content))
            status, answer = post(address, {"observations": [[1, 2]]})
            assert (status, answer["detail"]) == (
                422, "observations[0]: list should have at least 4 items after validation, not 2.")  # fmt: skip
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
        assert process.returncode == 0, output
        assert output.strip().endswith("stopped")
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"{address}/health", timeout=2)
    assert answers[0][0] == 200
    for status, answer in answers:
        assert status == 200
        assert answer["actions"] == answers[0][1]["actions"]
        assert answer["q_values"][0] == pytest.approx(answers[0][1]["q_values"][0], rel=1e-5)


def test_sigterm_is_a_stop_too(runs: Runs, workdir: Path):
    assert trilab("train", *small("rl/q_learning_taxi")) == 0
    process, address = start(runs()[0].info.run_id, "--port", str(port := free_port()))
    assert address == f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 143, output


def test_mistakes_get_one_line(runs: Runs, workdir: Path, capsys: pytest.CaptureFixture[str]):
    assert trilab("train", *small("recsys/deepfm_synthetic")) == 0
    run = runs()[0].info.run_id
    foreign = client().create_run("0").info.run_id
    client().create_registered_model("bare")
    folder = workdir / "foreign"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {python_function: {loader_module: os}}\n")
    client().create_model_version("bare", source=str(folder))
    capsys.readouterr()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, code, message in (
            ([], 2, "serve needs one run"),
            (["0" * 32], 2, "no such run"),
            ([foreign], 1, "was not made by trilab train"),
            ([run, "--port", port], 1, f"--port {port} is taken on 127.0.0.1."),
            ([run, "--port", "70000"], 2, "--port 70000: expected a whole number from 0 to 65535."),
            ([run, "--max-rows", "0"], 2, "--max-rows 0: expected one row at least."),
            ([run, "--prot", "1"], 2, "no option '--prot'. Did you mean '--port'?"),
            ([run, "--host", "no.such.host.invalid"], 1, "--host no.such.host.invalid: there is no such address."),
            ([run, "model=recsys/fm"], 2, "model=recsys/fm"),
            (["models:/nobody@champion"], 2, "models:/nobody@champion: no such model"),
            (["models:/nobody"], 2, "models:/nobody: expected models:/NAME@ALIAS or models:/NAME/VERSION."),
            (["models:/bare/1"], 1, "was not registered by trilab register"),
            (["models:/bare/1", "seed=3"], 2, "seed=3: a registered model is served as it is."),
        ):
            assert trilab("serve", *arguments) == code, arguments
            error = capsys.readouterr().err
            assert message in error, error
            assert error.count("\n") == 1, error
