"""What a run knows of the sweep that it belongs to, however it was launched.

It reaches the run through `hydra.job.env_set`, which every launcher of Hydra sets around a run, in whatever process or
on whatever machine that is.
"""

import json
import os
import shlex
from dataclasses import asdict, dataclass

_VARIABLE = "TRILAB_SWEEP"
#: Significant digits of a number in a run's name; the run itself has all of them.
_DIGITS = 4


@dataclass(frozen=True)
class Place:
    """A sweep as its runs see it.

    Args:
        name: of the sweep.
        run_id: of its own MLflow run, which those of its runs are nested under.
        swept: keys of the overrides in which they differ, in the order in which they were given.
        quiet: the sweep tells of its runs, a line each, and they are to print nothing of their own.
    """

    name: str
    run_id: str
    swept: tuple[str, ...] = ()
    quiet: bool = False

    @classmethod
    def here(cls) -> "Place | None":
        """That of the run which is going on; None for one that is in no sweep."""
        text = os.environ.get(_VARIABLE)
        if not text:
            return None
        values = json.loads(text)
        return cls(values["name"], values["run_id"], tuple(values["swept"]), bool(values.get("quiet")))

    def as_override(self) -> str:
        """What hands it to every run."""
        text = json.dumps(asdict(self)).replace("\\", "\\\\").replace("'", "\\'")
        return f"+hydra.job.env_set.{_VARIABLE}='{text}'"

    @property
    def tags(self) -> dict[str, str]:
        """Of a run in it."""
        return {"trilab.sweep": self.name, "mlflow.parentRunId": self.run_id}

    def values(self, overrides: list[str]) -> str:
        """What is swept, with the values of one run: `seed=1 precision=fp32`."""
        return shlex.join(_shortened(text) for text in overrides if key_of(text) in self.swept)


def is_quiet() -> bool:
    """Whether the run that is going on leaves it to its sweep to tell of it."""
    place = Place.here()
    return place is not None and place.quiet


def key_of(override: str) -> str:
    """What an override sets: `a.b` of `+a.b=1`."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _shortened(override: str) -> str:
    """A number with a fraction to a few digits: it was drawn, and the rest of them says nothing."""
    key, equals, value = override.partition("=")
    try:
        number = float(value)
    except ValueError:
        return override
    short = f"{number:.{_DIGITS}g}"
    return override if value.lstrip("+-").isdigit() or len(short) >= len(value) else f"{key}{equals}{short}"
