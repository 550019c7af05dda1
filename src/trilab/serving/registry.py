"""Models in MLflow's registry: written as data with trilab's code beside them, read as data alone."""

import contextlib
import math
import re
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow.exceptions import MlflowException
from mlflow.utils import environment

import trilab
from trilab.errors import ConfigError, UserError
from trilab.serving.package import Served, save
from trilab.tracking.lookup import StoredRun, open_store
from trilab.tracking.models import log_model
from trilab.tracking.settings import redacted
from trilab.tracking.store import MlflowClient

_LOADER = "trilab.serving.pyfunc_model"
#: What a loaded model imports, beside trilab's own code, which it carries.
_PACKAGES = ("annotated-types", "mlflow", "numpy", "pandas", "pillow", "psutil", "pyarrow", "pydantic", "torch")
_MODEL = re.compile(r"models:/(?P<name>[^/@:]+)(@(?P<alias>[^/@:]+)|/(?P<version>\d+|latest))")


def register(served: Served, stored: StoredRun, name: str, alias: str | None, folder: Path) -> int:
    """Logs a model to its run and makes it the newest version of a registered model.

    Args:
        served: the model, on the CPU.
        stored: the run that it is of; nothing of it changes but that it has one model more.
        name: of the registered model.
        alias: that the version is to have.
        folder: an empty one, to write to.

    Returns:
        The version.

    Raises:
        UserError: the model cannot be exported, or the registry cannot be written.
    """
    client = stored.client
    try:
        written = write(served, folder / "model")
        last = max((int(step) for step in _steps(client, stored)), default=0)
        logged = log_model(client, stored.id, written, model_name(served), served.contract.kind, last)
        if not any(model.name == name for model in client.search_registered_models(f"name = {_quoted(name)}")):
            client.create_registered_model(name)
        version = client.create_model_version(
            name,
            source=logged.artifact_location,
            run_id=stored.id,
            model_id=logged.model_id,
            description=_description(served, stored),
        )
        if alias is not None:
            client.set_registered_model_alias(name, alias, version.version)
    except MlflowException as error:
        raise UserError(f"MLflow cannot register {name}: {' '.join(str(error).split())[:300]}") from error
    return int(version.version)


def write(served: Served, target: Path) -> Path:
    """Writes a model in MLflow's format, which says of no run yet that it is of it.

    Args:
        served: the model, on the CPU.
        target: a new folder.

    Raises:
        UserError: the model cannot be exported.
    """
    with tempfile.TemporaryDirectory(prefix="trilab-model-") as name:
        data = Path(name) / "served"
        data.mkdir()
        save(served, data)
        with _requirements_are_met():
            mlflow.pyfunc.save_model(
                path=str(target),
                loader_module=_LOADER,
                data_path=str(data),
                code_paths=[_code(Path(name))],
                signature=served.contract.signature(),
                input_example=served.contract.example(),
                pip_requirements=[f"{package}=={_version(package)}" for package in _PACKAGES],
                metadata={"trilab": vars(served.origin)},
            )
    return target


@contextlib.contextmanager
def _requirements_are_met() -> Iterator[None]:
    """Spares MLflow its search through every installed file for whether this environment meets the requirements.

    They were read from this environment. The search takes longer than all else that writes a model but its export.
    """
    name = "warn_dependency_requirement_mismatches"
    check = getattr(environment, name, None)  # not of MLflow's public interface: without it, it searches
    if check is None:
        yield
        return
    setattr(environment, name, lambda requirements: None)
    try:
        yield
    finally:
        setattr(environment, name, check)


def model_name(served: Served) -> str:
    """As MLflow allows it."""
    return served.origin.model.replace("/", "_")


def fetch_model(uri: str, store: str, folder: Path) -> Path:
    """The folder of a registered model's data, downloaded.

    Args:
        uri: `models:/name@alias` or `models:/name/version`.
        store: with the registry.
        folder: where to.

    Raises:
        ConfigError: there is no such model.
        UserError: it was not registered by trilab.
    """
    match = _MODEL.fullmatch(uri)
    if match is None:
        raise ConfigError(f"{uri}: expected models:/NAME@ALIAS or models:/NAME/VERSION.")
    client: Any = open_store(store)
    name, alias, number = match["name"], match["alias"], match["version"]
    try:
        if number == "latest":
            number = max((int(v.version) for v in client.search_model_versions(f"name = {_quoted(name)}")), default=0)
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, str(number))
        source = client.get_model_version_download_uri(name, found.version)
        path = Path(mlflow.artifacts.download_artifacts(source, dst_path=str(folder), tracking_uri=store))
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{uri}: no such model in {redacted(store)} ({reason})") from None
    about = yaml.safe_load((path / "MLmodel").read_text(encoding="utf-8")) if (path / "MLmodel").is_file() else {}
    flavor = (about.get("flavors") or {}).get("python_function") or {}
    if flavor.get("loader_module") != _LOADER:
        raise UserError(f"{uri} was not registered by trilab register, and other models run code of their own.")
    data = (path / str(flavor.get("data", ""))).resolve()
    if not data.is_relative_to(path.resolve()):
        raise UserError(f"{uri}: its data are outside of it.")
    return data


def _steps(client: MlflowClient, stored: StoredRun) -> list[int]:
    """The last step of the run's test, else of its validation."""
    names = [name for name in stored.run.data.metrics if name.startswith(("test/", "val/"))]
    return [point.step for name in names[:1] for point in client.get_metric_history(stored.id, name)]


def _description(served: Served, stored: StoredRun) -> str:
    results = [
        f"{name} {value:.4g}"
        for name, value in sorted(stored.run.data.metrics.items())
        if name.startswith("test/") and math.isfinite(value)
    ]
    return f"{served.origin.experiment}, run {stored.id}. {', '.join(results[:8])}"


def _code(folder: Path) -> str:
    """A copy of trilab's source, without what Python made of it."""
    import shutil

    source = Path(str(trilab.__file__)).parent
    target = folder / "code" / "trilab"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    return str(target)


def _version(package: str) -> str:
    return metadata.version(package).partition("+")[0]


def _quoted(name: str) -> str:
    """As MLflow's search takes a text; it knows no escapes."""
    mark = '"' if "'" in name else "'"
    return f"{mark}{name}{mark}"
