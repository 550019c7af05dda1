"""What tells the groups of a comparison apart: columns, by short names or those of the configuration."""

import re
from collections.abc import Iterable, Mapping, Sequence

from trilab.compare.samples import Sample
from trilab.errors import ConfigError, nearest

#: Columns that say what the task is, not how it is solved.
OF_THE_TASK = ("data", "experiment")
#: Those that speak for themselves: their values need no name beside them.
_SHORT = ("data", "model", "precision", "accelerator", "optimizer", "scheduler", "experiment")
#: Parts of the configuration in which two runs of the same thing may differ.
_NOT_COMPARED = (
    "seed",
    "resume",
    "tracking.",
    "paths.",
    "sweep.",
    "trainer.seeds",
    "goal.source",
    "callbacks.progress.",
)
_A_RUN, _RUN_ID = "a run", re.compile("[0-9a-f]{32}")


def value(sample: Sample, column: str) -> str:
    """What a sample has in a column, in full, but for ids of runs; empty where it has no such setting."""
    params, tags = sample.params, sample.tags
    if column in ("data", "model", "experiment"):
        return tags.get(f"trilab.{column}", "")
    if column in ("precision", "accelerator"):
        return params.get(f"{column}.name", tags.get(f"{column}.requested", ""))
    if column in ("optimizer", "scheduler"):
        return params.get(f"{column}._target_", "").rpartition(".")[2]
    if _RUN_ID.fullmatch(params.get(column, "")):
        return _A_RUN  # that it begins from a trained model is a setting; which seed's run has trained it is not
    return params.get(column, tags.get(column, ""))


def resolve(name: str, samples: Sequence[Sample]) -> str:
    """The column that a user means by a name: a short one, a key of the configuration or its last part, or a tag.

    Raises:
        ConfigError: there is none, or several.
    """
    if name in _SHORT:
        return name
    params = {key for sample in samples for key in sample.params}
    tags = {key for sample in samples for key in sample.tags if not key.startswith("mlflow.")}
    if name in params | tags:
        return name
    ending = sorted(key for key in params if key.endswith(f".{name}"))
    differing = [key for key in ending if len({value(sample, key) for sample in samples}) > 1]
    if len(ending) == 1 or len(differing) == 1:
        return (differing or ending)[0]
    if ending:
        raise ConfigError(f"--by {name}: may be any of {', '.join(differing or ending)}. Write it in full.")
    known = sorted({*_SHORT, *varying(samples), *params, *tags})
    told = ", ".join(varying(samples)) or "nothing but the seed"
    raise ConfigError(f"--by {name}: no such setting.{nearest(name, known)} The runs differ in: {told}.")


def varying(samples: Sequence[Sample]) -> list[str]:
    """Columns in which the samples differ, the short ones first; not the seed, nor what follows from it."""
    keys = sorted({key for sample in samples for key in sample.params})
    found = [column for column in _SHORT[:-1] if _differ(samples, column)]
    for key in keys:
        spoken_for = key.endswith("._target_") or key in ("precision.name", "accelerator.name")
        if key.startswith(_NOT_COMPARED) or spoken_for or not _differ(samples, key):
            continue
        if any(value(sample, key) != sample.seed for sample in samples):
            found.append(key)
    return [*found, *(["experiment"] if _differ(samples, "experiment") else [])]


def refined(columns: Sequence[str], samples: Sequence[Sample]) -> list[str]:
    """The columns, and as few others as it takes to tell apart all samples that differ in more than their seeds."""
    chosen = list(columns)
    cells = len(set(keys(samples, chosen)))
    for column in varying(samples):
        finer = len(set(keys(samples, [*chosen, column])))
        if finer > cells:
            chosen, cells = [*chosen, column], finer
    return chosen


def along_with(columns: Sequence[str], samples: Sequence[Sample]) -> list[str]:
    """Other settings that differ between groups, and do not belong to what the columns name."""
    if "experiment" in columns:
        return []
    own = [f"{column}." for column in columns]
    parts = ("callbacks.", "goal.", *own) if "data" in columns or "model" in columns else ("callbacks.", *own)
    others = [column for column in varying(samples) if column not in (*columns, "experiment")]
    return [column for column in others if not column.startswith(parts)]


def keys(samples: Iterable[Sample], columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The values of each sample in some columns."""
    return [tuple(value(sample, column) for column in columns) for sample in samples]


def ordered(samples: Sequence[Sample], column: str, swept: Mapping[str, Sequence[str]]) -> list[str]:
    """The values of a column: as they were swept, else by number, else as they were first run."""
    found = list(dict.fromkeys(value(sample, column) for sample in samples))
    if all(_number(text) is not None for text in found):
        return sorted(found, key=lambda text: _number(text) or 0.0)
    given = list(swept.get(column, ()))
    return sorted(found, key=lambda text: given.index(text) if text in given else len(given))


def label(columns: Sequence[str], values: Sequence[str]) -> str:
    """A group in words: `bf16-mixed`, `dqn lr=0.001`."""
    said = [
        short(text) if column in _SHORT else f"{column.rpartition('.')[2]}={text or 'none'}"
        for column, text in zip(columns, values, strict=True)
    ]
    return " ".join(said)


def short(text: str) -> str:
    """The name of an option without its folder."""
    return text.rpartition("/")[2] or "none"


def _differ(samples: Sequence[Sample], column: str) -> bool:
    return len({value(sample, column) for sample in samples}) > 1


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
