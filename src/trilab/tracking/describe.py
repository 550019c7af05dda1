"""A run's description in Markdown (the tag mlflow.note.content), as its page and the table of runs show it.

Its first line says how the run stands, and it alone is renewed when that changes: whatever people have written below
it, or in place of all of it, stays.
"""

import time
from collections.abc import Mapping
from importlib import resources
from typing import Any

from trilab.config.catalog import describe
from trilab.config.compose import CONFIG_MODULE
from trilab.config.job import Job

#: The tag that MLflow shows as the description.
NOTE = "mlflow.note.content"
_RUNNING, _RESULT = "Running", "Result"
#: What a first line that may be renewed begins with.
_STATES = tuple(f"**{state}" for state in (_RUNNING, _RESULT, "FAILED", "KILLED"))
#: MLflow's limit on a tag is 8000 characters; a longer one would be cut off anywhere.
LONGEST = 7900


def beginning(job: Job, tags: Mapping[str, str], run_id: str) -> str:
    """The description of a run that has just been opened.

    Args:
        job: what is run, without secrets.
        tags: that the run begins with.
        run_id: MLflow's, or the local one, in whose place the store's is put when the run is delivered.
    """
    config, choices = job.config, job.choices
    experiment, data = (one_line_of(group, choices[group]) for group in ("experiment", "data"))
    seeds = config["trainer"].get("seeds")
    requested, effective = tags["precision.requested"], tags["precision.effective"]
    precision = effective if requested == effective else f"{effective} ({requested} was asked for)"
    threads = f"{tags['runtime.threads']} thread{'' if tags['runtime.threads'] == '1' else 's'}"
    device = f"{tags['accelerator.effective']} ({tags['device.name']}), {threads}"
    lines = [
        running(),
        "",
        *([f"{experiment}.", ""] if experiment else []),
        f"- **Experiment** `{choices['experiment']}`, model `{choices['model']}`, "
        + (f"seed {config['seed']}" if seeds is None else f"seeds {', '.join(map(str, seeds))}, trained as one batch"),
        f"- **Data** `{choices['data']}`" + (f": {data}" if data else ""),
        f"- **Computed** in {precision} on {device}",
        *([f"- **Goal** {goal_of(job.goal)}"] if job.goal["threshold"] is not None else []),
        "",
        *_again(config, tags, run_id),
    ]
    return "\n".join(lines)[:LONGEST]


def _again(config: Mapping[str, Any], tags: Mapping[str, str], run_id: str) -> list[str]:
    """How to have the run once more; a test of another run's checkpoint has its command alone."""
    command = tags.get("mlflow.source.name", "")
    if "trilab.source_run" in tags or not config["fit"]:
        return ["Once more:", "", f"    {command}"]
    how = "Once more, from what the store holds, and compared with this run; or from the configuration as it is now:"
    return [how, "", f"    trilab reproduce {run_id}", f"    {command}"]


def running(resumed: bool = False) -> str:
    """The first line of a run that is going on."""
    since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"**{_RUNNING}** {'again, resumed' if resumed else 'since'} {since}"


def finished(result: str, speed: str) -> str:
    """The first line of a run that has finished.

    Args:
        result: its result against its goal.
        speed: how fast it was, and the memory it took.
    """
    return f"**{_RESULT}** {_one_line(result)} · {_one_line(speed)}"


def ended(status: str, how: str) -> str:
    """The first line of a run that ended otherwise.

    Args:
        status: FAILED or KILLED.
        how: it ended.
    """
    return f"**{status}** {_one_line(how)}"


def renewed(note: str, line: str) -> str:
    """A description with another first line; as it is where its first line is not of trilab's making."""
    first, separator, rest = note.partition("\n")
    return f"{line}{separator}{rest}"[:LONGEST] if first.startswith(_STATES) else note


def goal_of(goal: Mapping[str, Any]) -> str:
    """What a run is judged by: `test/auc >= 0.86 (source)`."""
    sign = ">=" if goal["mode"] == "max" else "<="
    source = f" ({goal['source']})" if goal["source"] else ""
    return f"{goal['metric']} {sign} {goal['threshold']:g}{source}"


def one_line_of(group: str, option: str) -> str:
    """What an option's file says of itself; empty where it is not one of trilab's own."""
    file = resources.files(CONFIG_MODULE).joinpath(group, f"{option}.yaml")
    try:
        return describe(file.read_text(encoding="utf-8"))
    except OSError:
        return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:1000]
