"""What a study of devices measures on this machine: a cell for each data set, accelerator and precision."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from trilab.errors import ConfigError, UserError, nearest
from trilab.reports.study import Study, StudyRun
from trilab.timing import MIN_WINDOWS, Unsupported

_ACCELERATORS = ("cuda", "mps", "cpu")
_PRECISIONS = ("fp32", "16-mixed", "bf16-mixed")
#: Keys of other kinds of studies.
_WITHOUT = ("overestimation", "metrics", "by", "published")


@dataclass(frozen=True, eq=False)
class Cell:
    """What is measured of one data set on one accelerator in one precision.

    Args:
        data: option of the group.
        model: option of the group.
        accelerator: cuda, mps or cpu.
        precision: fp32, 16-mixed or bf16-mixed.
        run: of the study, made once with each seed.
        unsupported: why it cannot be measured; None where it can.
    """

    data: str
    model: str
    accelerator: str
    precision: str
    run: StudyRun
    unsupported: Unsupported | None = None

    @property
    def title(self) -> str:
        return f"{self.model.rpartition('/')[2]} {self.data.rpartition('/')[2]} {self.accelerator} {self.precision}"


@dataclass(frozen=True)
class DeviceStudy(Study):
    """A study of devices, as `study.yaml` holds it.

    Args:
        accelerators: measured where this machine has them.
        precisions: measured where the accelerator runs them as they are asked for.
        windows: epochs of each precision that are timed in turns with the others, after a first one.
        substitutes: options of the group data that take the place of others whose files are not here.
    """

    accelerators: list[str] = field(default_factory=lambda: [*_ACCELERATORS])
    precisions: list[str] = field(default_factory=lambda: [*_PRECISIONS])
    windows: int = 7
    substitutes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The study in a folder; raises ConfigError where there is none, or it does not hold what it should."""
        return cls.read(folder, without=_WITHOUT)

    def check(self) -> None:
        super().check()
        for name, allowed in (("accelerators", _ACCELERATORS), ("precisions", _PRECISIONS)):
            given = getattr(self, name)
            wrong = next((one for one in given if one not in allowed), None) if isinstance(given, list) else given
            if wrong is not None:
                raise ConfigError(f"{name}: {wrong!r}.{nearest(str(wrong), allowed)} Allowed: {', '.join(allowed)}.")
        if self.baseline not in self.precisions:
            raise ConfigError(f"baseline: {self.baseline} is none of the precisions {', '.join(self.precisions)}.")
        if not isinstance(self.windows, int) or self.windows < MIN_WINDOWS:
            raise ConfigError(f"windows: {self.windows!r}: expected a whole number >= {MIN_WINDOWS}.")
        if not self.seeds:
            raise ConfigError("seeds: expected one at least.")
        if not isinstance(self.substitutes, dict):
            raise ConfigError(f"substitutes: {self.substitutes!r} is not a mapping of options of data.")

    @property
    def varied(self) -> list[str]:
        return [*super().varied, "accelerator", "precision"]

    def here(self) -> Self:
        return replace(
            self,
            name=f"{self.name}/{re.sub(r'[^A-Za-z0-9.]+', '_', machine_name())}",
            runs=[cell.run for cell in self.cells if cell.unsupported is None],
        )

    @cached_property
    def cells(self) -> list[Cell]:
        """Of this machine, those that cannot run included.

        Raises:
            UserError: it has none of the accelerators.
        """
        _prepare()
        from trilab.runtime import available

        present = [name for name in self.accelerators if name in available()]
        if not present:
            asked, there = ", ".join(self.accelerators), ", ".join(available())
            raise UserError(f"accelerators: this machine has none of {asked}. It has: {there}.")
        substitutes = [self._substitute(run) for run in self.runs]
        return [
            self._cell([*run.overrides, *substitute], accelerator, precision)
            for run, substitute in zip(self.runs, substitutes, strict=True)
            for accelerator in present
            for precision in self.precisions
        ]

    def _cell(self, overrides: Sequence[str], accelerator: str, precision: str) -> Cell:
        from trilab.config.compose import compose_unchecked
        from trilab.config.job import build

        run = StudyRun([*overrides, f"accelerator={accelerator}", f"precision={precision}"])
        config, choices = compose_unchecked(self.overrides(run, self.seeds[0]))
        unsupported = None
        try:
            effective = build(config.precision).on(accelerator).name
            if effective != precision:
                unsupported = Unsupported(f"{precision} runs as {effective} on {accelerator}")
        except ConfigError as error:
            unsupported = Unsupported(str(error))
        return Cell(choices["data"], choices["model"], accelerator, precision, run, unsupported)

    def _substitute(self, run: StudyRun) -> list[str]:
        """The override that replaces a run's data, where their files are not here and those of the substitute are."""
        from trilab.config.compose import compose_unchecked

        if not self.substitutes:
            return []
        config, choices = compose_unchecked(self.overrides(run, self.seeds[0]))
        other = self.substitutes.get(choices["data"])
        if other is None or _at_hand(config.data):
            return []
        override = f"data={other}"
        config, _ = compose_unchecked([*self.overrides(run, self.seeds[0]), override])
        return [override] if _at_hand(config.data) else []


def machine_name() -> str:
    """What tells this machine's rows from another's: its processor, cores and GPU."""
    _prepare()
    from trilab.runtime import available, device_name

    gpu = [device_name("cuda")] if "cuda" in available() else []
    return ", ".join([f"{device_name('cpu')}, {os.cpu_count()} cores", *gpu])


def _prepare() -> None:
    from trilab.runtime import fast_imports, prepare_imports

    with fast_imports():
        prepare_imports()


def _at_hand(node: Any) -> bool:
    """Whether a data set's files are on this machine; nothing is downloaded."""
    from omegaconf import OmegaConf

    from trilab.config.job import build

    plain: Any = OmegaConf.to_container(node, resolve=True)
    if "download" in plain:
        plain["download"] = False
    try:
        build(plain).prepare_data()
    except UserError:
        return False
    return True
