"""trilab register: put the model of an earlier run into MLflow's registry

usage: trilab register RUN_ID --name NAME [--alias ALIAS] [OVERRIDES]

The run's best checkpoint becomes a new version of NAME: a graph (torch.export, no pickle) with what turns a raw request
into its inputs, a signature and an input example. It answers the same over `trilab serve models:/NAME@ALIAS` and
`mlflow models serve -m models:/NAME@ALIAS --env-manager local`. It computes in float32.

  --name NAME       of the registered model; made if it is new
  --alias ALIAS     that this version is to have from now on, such as champion [none]
  tracking.uri=URI  the store, of the run and of the registry
  data.root=DIR     and other values, where the data are elsewhere now

exit code  0 registered, 1 failed, 2 wrong arguments, 130 Ctrl-C, 143 SIGTERM
"""

import re
import tempfile
from pathlib import Path

from trilab.commands.options import parse
from trilab.commands.source import named_run
from trilab.config.job import Job, build
from trilab.config.stored import apply_overrides
from trilab.errors import ConfigError
from trilab.runtime import fast_imports

_OPTIONS = {"--name": "", "--alias": ""}
#: MLflow takes an alias of these, and none that looks like a version.
_ALIAS = re.compile(r"(?!(v\d+|latest)$)[\w-]{1,255}", re.ASCII | re.IGNORECASE)


def main(argv: list[str]) -> int:
    """Finds the run, exports its model, and registers it."""
    options, rest = parse("register", argv, _OPTIONS)
    name, alias = options["--name"], options["--alias"]
    if not name:
        raise ConfigError("register needs --name NAME: of the registered model.")
    if any(mark in name for mark in "/:") or not name.strip():
        raise ConfigError(f"--name {name}: a registered model's name has no '/' and no ':'.")
    if alias and not _ALIAS.fullmatch(alias):
        raise ConfigError(f"--alias {alias}: expected letters, digits, '-' and '_', and neither 'latest' nor 'v1'.")
    run_id, overrides = named_run("register", rest)
    with tempfile.TemporaryDirectory(prefix="trilab-register-") as temporary:
        folder = Path(temporary)
        from trilab.tracking.lookup import fetch_run, find_run

        config, choices, checkpoint = fetch_run(run_id, overrides, folder)
        job = apply_overrides(
            Job(config, choices), [*overrides, "accelerator=cpu", "fit=false", "test=true", "+resume=null"]
        )
        with fast_imports():
            build(job.config["accelerator"]).prepare()
            import trilab.lightning  # noqa: F401
        from trilab.serving.registry import register
        from trilab.serving.trained import served_of  # with DuckDB, which complains at the exit of what is set aside

        stored = find_run(run_id, overrides, folder)
        version = register(served_of(job, checkpoint), stored, name, alias or None, folder)
    where = f"models:/{name}@{alias}" if alias else f"models:/{name}/{version}"
    print(f"{name}, version {version}, of run {run_id}\n  trilab serve {where}")
    return 0
