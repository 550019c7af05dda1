"""trilab serve: answer requests over HTTP with the model of a run, or a registered one

usage: trilab serve RUN_ID [OPTIONS] [OVERRIDES]
       trilab serve models:/NAME@ALIAS [OPTIONS] [accelerator=cuda] [tracking.uri=URI]

POST /predict answers one row or many, GET /health says what is served, GET /docs has the schema and tries it:
  reinforcement learning   {"observations": [[0.1, 0, 0, 0]]}      actions and q_values
  recommenders             {"rows": [{"user": 3, "item": 7}]}      probabilities; raw rows of a table of clicks are
                                                                   scored with the vocabulary of the training
  vision                   {"images": ["<PNG in base64>"]}         classes and probabilities; or nested lists of bytes
A wrong request gets the status 422 and a sentence that says what is wrong. The model computes in float32.

options
  --host HOST       address to listen on [127.0.0.1: this machine alone]
  --port PORT       0 for any that is free [0]
  --max-rows N      rows of one request at most [4096]

A registered model (trilab register) is read as data: nothing that the store holds is run.

exit code  0 stopped by Ctrl-C, 1 failed, 2 wrong arguments, 143 SIGTERM
"""

import tempfile
from pathlib import Path
from typing import Any

from trilab.commands.options import parse
from trilab.commands.source import named_run
from trilab.config.compose import option_alone
from trilab.config.job import Job, build
from trilab.config.stored import apply_overrides
from trilab.errors import ConfigError, UserError
from trilab.runtime import Accelerator, fast_imports

_OPTIONS = {"--host": "127.0.0.1", "--port": "0", "--max-rows": "4096"}
_REGISTERED = "models:/"


def main(argv: list[str]) -> int:
    """Finds the model, and serves it until it is stopped."""
    options, rest = parse("serve", argv, _OPTIONS)
    port, max_rows = _number(options, "--port", 65_535), _number(options, "--max-rows", 10_000_000)
    if not max_rows:
        raise ConfigError("--max-rows 0: expected one row at least.")
    what, overrides = named_run("serve", rest)
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"trilab serve needs the package {error.name}: pip install 'trilab[serve]'") from None
    with tempfile.TemporaryDirectory(prefix="trilab-serve-") as folder:
        served = (_registered if what.startswith(_REGISTERED) else _of_run)(what, overrides, Path(folder))
    from trilab.serving.app import make_app
    from trilab.serving.server import serve

    return serve(make_app(served, max_rows), options["--host"], port, f"{what} on {served.device}")


def _of_run(run_id: str, overrides: list[str], folder: Path) -> Any:
    from trilab.tracking.lookup import fetch_run

    config, choices, checkpoint = fetch_run(run_id, overrides, folder)
    job = apply_overrides(Job(config, choices), [*overrides, "fit=false", "test=true", "+resume=null"])
    accelerator: Accelerator = build(job.config["accelerator"])
    with fast_imports():
        accelerator.prepare()
        import trilab.lightning  # noqa: F401
    from trilab.serving.trained import served_of  # with DuckDB, which complains at the exit of what is set aside

    return served_of(job, checkpoint, accelerator.device())


def _registered(uri: str, overrides: list[str], folder: Path) -> Any:
    ours = ("tracking.uri=", "accelerator=", "accelerator.")
    other = [text for text in overrides if not text.startswith(ours)]
    if other:
        raise ConfigError(f"{other[0]}: a registered model is served as it is. Allowed: tracking.uri=, accelerator=.")
    chosen = [text.partition("=")[2] for text in overrides if text.startswith("accelerator=")]
    knobs = [text for text in overrides if text.startswith("accelerator.")]
    accelerator: Accelerator = build(option_alone("accelerator", chosen[-1] if chosen else "auto", knobs))
    with fast_imports():
        accelerator.prepare()
        from trilab.serving.package import load
        from trilab.serving.registry import fetch_model
        from trilab.tracking.lookup import uri_of

    return load(fetch_model(uri, uri_of(overrides), folder), accelerator.device())


def _number(options: dict[str, str], name: str, most: int) -> int:
    text = options[name]
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise ConfigError(f"{name} {text}: expected a whole number from 0 to {most}.")
    return int(text)
