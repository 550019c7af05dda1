"""What a study of precisions asks: the same trainings in several precisions, and each claim by itself."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from trilab.errors import ConfigError, nearest
from trilab.reports.study import Study
from trilab.timing import MIN_WINDOWS

PRECISIONS = ("fp32", "bf16-mixed", "16-mixed")
#: Keys of other kinds of studies.
_WITHOUT = ("overestimation", "metrics", "by", "published")
_PRECISION = "precision="


@dataclass(frozen=True)
class PrecisionStudy(Study):
    """A study of precisions, as `study.yaml` holds it. Its runs have a label, which is their field, and a precision.

    Args:
        gradients: overrides of the training of images whose gradients are looked at.
        gradient_steps: steps of it in fp32 before that.
        widths: of the grid of speed and memory.
        batches: rows of its batches.
        windows: timed of each precision; see `trilab.timing`.
        threads: torch's, on the CPU.
    """

    gradients: list[str] = field(default_factory=list)
    gradient_steps: int = 100
    widths: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    windows: int = 7
    threads: int = 1

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The study in a folder; raises ConfigError where there is none, or it does not hold what it should."""
        return cls.read(folder, without=_WITHOUT)

    def check(self) -> None:
        super().check()
        for label, precision in self.cells:
            if not label or precision not in PRECISIONS:
                hint = nearest(precision, PRECISIONS) if precision else ""
                raise ConfigError(
                    f"runs: '{label}' with precision '{precision}': each needs a label and one of the overrides "
                    f"precision={'|'.join(PRECISIONS)}.{hint}"
                )
        if self.baseline not in PRECISIONS:
            hint = nearest(self.baseline, PRECISIONS)
            raise ConfigError(f"baseline: {self.baseline} is no precision.{hint} Allowed: {', '.join(PRECISIONS)}.")
        for name, least in (("gradient_steps", 0), ("windows", MIN_WINDOWS), ("threads", 1)):
            if not _whole(getattr(self, name), least):
                raise ConfigError(f"{name}: {getattr(self, name)!r}: expected a whole number >= {least}.")
        for name in ("widths", "batches"):
            values = getattr(self, name)
            if not isinstance(values, list) or not all(_whole(value, 1) for value in values):
                raise ConfigError(f"{name}: {values!r}: expected a list of whole numbers >= 1.")
        if not self.seeds:
            raise ConfigError("seeds: expected one at least.")

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Label and precision of each run, in their order."""
        found = []
        for run in self.runs:
            asked = [text.removeprefix(_PRECISION) for text in run.overrides if text.startswith(_PRECISION)]
            found.append((run.label or "", asked[-1] if asked else ""))
        return list(dict.fromkeys(found))

    @property
    def varied(self) -> list[str]:
        return [*super().varied, "precision"]


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
