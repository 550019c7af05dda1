"""What MLflow's pages of an experiment show at first: a description, and a view of the runs.

The view has the columns that matter, in their order and wide enough to read, and the charts of the result first. It is
MLflow's own "share" of the state of its page: a tag of the experiment, and its name in the address of the page.
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
#: Columns that every table has, with their widths in pixels: a run's name has the values that a sweep gave it.
_FIXED = {"attributes.`Run Name`": 300, "runDateAndNestInfo": 130, "duration": 80}
#: Widths of the others: the shortest in pixels, then what their names take, by character and around them.
_LEAST, _CHARACTER, _MARGIN = 90, 6.5, 28
#: Sections of charts, and whether they are open; MLflow's own order is that of the alphabet, with the memory first.
_SECTIONS = {"val": True, "train": True, "test": True, "perf": True, "precision": False, "memory": False}
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
        _VIEW_TAG: json.dumps(_view(name)),
    }


def runs_page(address: str, experiment_id: str, tags: dict[str, str]) -> str:
    """The address of an experiment's runs, in the view that it has.

    Args:
        address: of the server.
        experiment_id: MLflow's.
        tags: of the experiment.
    """
    # MLflow's pages are those of language models unless they are told otherwise.
    view = f"viewStateShareKey={VIEW}&" if _VIEW_TAG in tags else ""
    return f"{address}/#/experiments/{experiment_id}/runs?{view}workflowType=machine_learning"


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


def _view(name: str) -> dict[str, Any]:
    """The state of the page of runs, by MLflow's own names."""
    columns = _columns(name)
    titles = {column: column.split("`")[1] for column in columns}
    widths = {column: max(_LEAST, round(_MARGIN + _CHARACTER * len(title))) for column, title in titles.items()}
    return {
        "selectedColumns": columns,
        "columnOrder": [*_FIXED, *columns],
        "columnWidths": {**_FIXED, **widths},
        "compareRunCharts": _charts(name),
        "compareRunSections": [_section(section, shown) for section, shown in _SECTIONS.items()],
        "isAccordionReordered": True,
    }


def _section(name: str, shown: bool) -> dict[str, Any]:
    """A section of charts. MLflow adds a chart of each metric that has none, to its end where it is "reordered"."""
    return {
        "uuid": name, "name": name, "display": shown, "isReordered": True, "deleted": False, "isGenerated": True
    }  # fmt: skip


def _charts(name: str) -> list[dict[str, Any]]:
    """The charts of the goal, that they are the first of their sections. MLflow makes lines of bars that have steps."""
    goal = _goal_metric(name)
    return [
        {
            "uuid": f"{split}-goal", "type": "BAR", "metricKey": f"{split}/{goal}", "displayName": goal,
            "metricSectionId": split, "runsCountToCompare": 10, "deleted": False, "isGenerated": True,
        }
        for split in ("val", "test") if goal
    ]  # fmt: skip


def _columns(name: str) -> list[str]:
    """By MLflow's own names of them; those that no run has are left out there."""
    field, goal = name.partition("/")[0], _goal_metric(name)
    # The row of a sweep has the result of the best of its runs.
    metrics = [f"{split}/{goal}" for split in ("test", "val", "best/test")] if goal else []
    works = [_WORK[field]] if field in _WORK else sorted(set(_WORK.values()))
    metrics += [*(f"perf/{work}_per_s" for work in works), "perf/fit_s", "perf/peak_memory_mb"]
    tags = ["precision.effective", "accelerator.effective"]
    if not goal:
        tags = ["trilab.model", "trilab.data", *tags]
    return [
        *(f"metrics.`{metric}`" for metric in metrics),
        *(f"tags.`{tag}`" for tag in tags),
        "params.`seed`",
    ]


def _goal_metric(name: str) -> str | None:
    file = resources.files(CONFIG_MODULE).joinpath("experiment", f"{name}.yaml")
    try:
        config: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        return str(config["goal"]["metric"])
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return None
