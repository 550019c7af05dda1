"""What MLflow's pages of an experiment show at first: a description, and a view of the runs with columns that matter.

A view is MLflow's own "share" of a table's state: a tag of the experiment, and its name in the address of the page.
"""

import json
from importlib import resources
from typing import Any

import yaml

from trilab.config.compose import CONFIG_MODULE
from trilab.tracking.describe import NOTE, one_line_of

#: Name of the view.
VIEW = "trilab"
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
#: What a run works through, by field; its speed is a metric.
_WORK = {"rl": "env_steps", "recsys": "train_samples", "vision": "train_samples"}
_X_AXES = {"rl": "environment steps", "recsys": "optimiser steps", "vision": "optimiser steps"}


def experiment_tags(name: str) -> dict[str, str]:
    """Tags of a new experiment.

    Args:
        name: of the MLflow experiment, which is that of a configuration unless users choose another.
    """
    return {
        # Makes MLflow's pages open on runs and charts rather than on traces of language models.
        "mlflow.experimentKind": "custom_model_development",
        NOTE: _note(name),
        _VIEW_TAG: json.dumps({"selectedColumns": _columns(name)}),
    }


def runs_page(address: str, experiment_id: str, tags: dict[str, str]) -> str:
    """The address of an experiment's runs, in the view that it has.

    Args:
        address: of the server.
        experiment_id: MLflow's.
        tags: of the experiment.
    """
    view = f"?viewStateShareKey={VIEW}" if _VIEW_TAG in tags else ""
    return f"{address}/#/experiments/{experiment_id}/runs{view}"


def _note(name: str) -> str:
    about = one_line_of("experiment", name)
    field = name.partition("/")[0]
    axis = f"counts {_X_AXES[field]}" if about and field in _X_AXES else "counts what a run's tag `trilab.x_axis` says"
    if about:
        what = f"**{about}.** Its configuration is `experiment={name}`; the runs are made by `trilab train`."
    else:
        what = "Runs of `trilab train`; the tags `trilab.experiment`, `trilab.model`, `trilab.data` tell which of what."
    lines = [
        what,
        "",
        f"- **x axis** A step of `train/…`, `val/…`, `test/…`, `perf/…` and `precision/…` {axis}; one of `system/…`, "
        "samples of the machine's use.",
        "- **Sweeps** are runs with others nested under them; their descriptions are tables of results.",
        "- **A run's description** has its result and the command that makes it once more.",
    ]
    return "\n".join(lines)


def _columns(name: str) -> list[str]:
    """By MLflow's own names of them; those that no run has are left out there."""
    field, goal = name.partition("/")[0], _goal_metric(name)
    metrics = [f"{split}/{goal}" for split in ("test", "val")] if goal else []
    works = [_WORK[field]] if field in _WORK else sorted(set(_WORK.values()))
    metrics += [*(f"perf/{work}_per_s" for work in works), "perf/fit_s", "perf/peak_memory_mb"]
    tags = ["precision.effective", "accelerator.effective"]
    if not goal:
        tags = ["trilab.model", "trilab.data", *tags]
    return [
        *(f"metrics.`{metric}`" for metric in metrics),
        "params.`seed`",
        *(f"tags.`{tag}`" for tag in tags),
    ]


def _goal_metric(name: str) -> str | None:
    file = resources.files(CONFIG_MODULE).joinpath("experiment", f"{name}.yaml")
    try:
        config: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        return str(config["goal"]["metric"])
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return None
