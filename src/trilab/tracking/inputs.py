"""The data of a run as MLflow's inputs: a dataset for each part, with how much there is and what a row looks like."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset, DatasetInput, InputTag

from trilab.tracking.outbox import Outbox

if TYPE_CHECKING:  # it needs torch, and whoever only sends what was recorded does not
    from trilab.data.contents import Contents

#: What MLflow calls a part.
_CONTEXTS = {"train": "training", "val": "validation", "test": "test"}
#: Arguments of data modules that say where the data lie; those of the others are made by code.
_PLACES = ("root", "train_path")
#: Digits of a digest; MLflow takes 36, and the table of runs shows all of them.
_DIGEST = 8
#: MLflow's names of dtypes in a table.
_COLUMN_TYPES = {"int64": "long", "float32": "float"}


def log_inputs(outbox: Outbox, option: str, config: Mapping[str, Any], data: Any) -> None:
    """Records what a data module holds, where it says so: one that users have written need not."""
    contents = getattr(data, "contents", None)
    if contents is None:
        return
    try:
        outbox.inputs(inputs_of(option, config, contents()))
    except Exception as error:  # tracking never ends a training
        outbox.complain("trilab.inputs_error", f"{type(error).__name__}: {error}", "the data could not be described")


def inputs_of(option: str, config: Mapping[str, Any], contents: "Contents") -> list[dict[str, str]]:
    """A record for each part, as plain texts.

    Args:
        option: the data's, which becomes the datasets' name.
        config: the data's node of the configuration.
        contents: what the data module holds.
    """
    kind, source = _source(config)
    schema = json.dumps(_schema(contents))
    return [
        {
            "name": option,
            "digest": part.key[:_DIGEST],
            "source_type": kind,
            "source": json.dumps(source),
            "schema": schema,
            "profile": json.dumps(dict(part.profile)),
            "context": _CONTEXTS.get(name, name),
        }
        for name, part in contents.parts.items()
    ]


def dataset_inputs(records: Sequence[Mapping[str, str]]) -> list[DatasetInput]:
    """What MLflow's client takes."""
    fields = ("name", "digest", "source_type", "source", "schema", "profile")
    return [
        DatasetInput(
            Dataset(**{name: record[name] for name in fields}), [InputTag("mlflow.data.context", record["context"])]
        )
        for record in records
    ]


def _source(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """MLflow's type of a source, and the source."""
    for key in _PLACES:
        if config.get(key):
            places = [config[key]] if isinstance(config[key], str) else list(config[key])
            return "local", {"uri": ", ".join(str(Path(place).expanduser().absolute()) for place in places)}
    made = [str(config[key]) for key in ("_target_", "env_id") if config.get(key)]
    return "code", {"tags": {"mlflow.source.name": " ".join(made)}}


def _schema(contents: "Contents") -> dict[str, Any]:
    """In the forms of `mlflow.types.Schema`, which the pages of datasets read."""
    if contents.features is None:
        return {
            "mlflow_colspec": [
                {"type": _COLUMN_TYPES.get(dtype, dtype), "name": name, "required": True}
                for name, dtype in contents.columns
            ]
        }
    arrays = {"features": contents.features, "targets": contents.targets}
    return {"mlflow_tensorspec": {name: _tensor(array) if array else None for name, array in arrays.items()}}


def _tensor(array: tuple[str, tuple[int, ...]]) -> str:
    dtype, shape = array
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]}}])
