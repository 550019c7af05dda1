"""Samples in groups, and every group's baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trilab.compare import columns
from trilab.compare.metric import finite
from trilab.compare.samples import Sample
from trilab.compare.verdict import Values
from trilab.errors import ConfigError, nearest

#: Tag of the processor, or the GPU.
_DEVICE = "device.name"
#: A column's value that the baseline of every group has; the others are the group's own.
Baseline = Mapping[str, str]


@dataclass(frozen=True)
class Group:
    """Samples that differ in their seeds, and in settings that are not compared.

    Args:
        values: of the columns, in full.
        name: in words.
        samples: one for each seed and each of those other settings.
        others: columns that are not compared, in which the samples differ too.
    """

    values: tuple[str, ...]
    name: str
    samples: Sequence[Sample]
    others: Sequence[str] = ()

    def of(self, metric: str) -> Values:
        """Finite values of a metric, by seed; of speeds and memory, one for each process."""
        if not metric.startswith("perf/"):
            found = {self._key(sample): sample.metric(metric) for sample in self.samples}
            return {key: value for key, value in found.items() if value is not None and finite(value)}
        processes: dict[str, list[Sample]] = {}
        for sample in self.samples:
            processes.setdefault(sample.process, []).append(sample)
        by_seeds = {tuple(sorted(map(self._key, own))): own[0].metric(metric) for own in processes.values()}
        return {key: value for key, value in by_seeds.items() if value is not None and finite(value)}

    def _key(self, sample: Sample) -> tuple[str, ...]:
        return sample.seed, *(columns.value(sample, column) for column in self.others)


def grouped(
    samples: Sequence[Sample], by: Sequence[str], swept: Mapping[str, Sequence[str]], several: bool = False
) -> tuple[list[Group], int]:
    """The groups in the order of their values, and how many runs are repetitions, of which the latest counts.

    Args:
        samples: of one task, oldest first.
        by: columns.
        swept: values in the order of the sweep.
        several: there are other tasks, so that the data stand above the table.
    """
    others = columns.refined(by, samples)[len(by) :]
    if len(set(columns.keys(samples, [*by, *others, _DEVICE]))) > len(set(columns.keys(samples, [*by, *others]))):
        others.append(_DEVICE)  # the same run on another machine is no repetition of it
    places = [columns.ordered(samples, column, swept) for column in by]
    latest: dict[tuple[str, ...], dict[tuple[str, ...], Sample]] = {}
    for sample, values in zip(samples, columns.keys(samples, by), strict=True):
        [rest] = columns.keys([sample], others)
        latest.setdefault(values, {})[(sample.seed, *rest)] = sample
    groups = [
        Group(values, _name(by, values, list(found.values()), several), sorted(found.values(), key=_by_seed), others)
        for values, found in latest.items()
    ]
    groups.sort(key=lambda group: [place.index(text) for place, text in zip(places, group.values, strict=True)])
    return groups, len(samples) - sum(len(group.samples) for group in groups)


def baseline(asked: str | None, groups: Sequence[Group], by: Sequence[str], several: bool = False) -> Baseline:
    """What the groups are held against: what is asked for, else fp32 among precisions, else the first group.

    Args:
        asked: a value (`fp32`), or `column=value` of several columns, with commas between them.
        groups: all there are.
        by: the columns.
        several: there are several tasks, and a group's baseline is of its own.

    Raises:
        ConfigError: no group is such.
    """
    there = {column: list(dict.fromkeys(group.values[place] for group in groups)) for place, column in enumerate(by)}
    compared = {name: own for name, own in there.items() if not (several and name in columns.OF_THE_TASK)}
    if asked is None:
        if "fp32" in compared.get("precision", []):
            return {"precision": "fp32"}
        return {column: found for column, found in zip(by, groups[0].values, strict=True) if column in compared}
    chosen: dict[str, str] = {}
    for part in asked.split(","):
        column, equals, text = part.rpartition("=")
        options = {name: own for name, own in there.items() if not equals or column in (name, name.rpartition(".")[2])}
        if not options:
            raise ConfigError(f"--baseline {part}: not a column.{nearest(column, by)} Columns: {', '.join(by)}.")
        fitting = [(name, own) for name, each in options.items() for own in each if text in (own, columns.short(own))]
        if len(fitting) > 1:
            which = " or ".join(f"{name}={own}" for name, own in fitting)
            raise ConfigError(f"--baseline {part}: {which}?")
        if not fitting:
            known = [columns.short(own) for each in options.values() for own in each]
            there_is = ", ".join(known) or "one group"
            raise ConfigError(f"--baseline {part}: no group has it.{nearest(text, known)} There is: {there_is}.")
        chosen.update(fitting)
    return chosen


def baseline_of(group: Group, groups: Sequence[Group], by: Sequence[str], chosen: Baseline) -> Group | None:
    """The group that differs from this one in no more than the baseline's columns; None where there is none."""
    values = tuple(chosen.get(column, own) for column, own in zip(by, group.values, strict=True))
    return next((other for other in groups if other.values == values), None)


def _name(by: Sequence[str], values: Sequence[str], samples: Sequence[Sample], several: bool) -> str:
    if not by:
        return columns.short(columns.value(samples[0], "model"))
    named = [place for place, column in enumerate(by) if not (several and column == "data")] or [0]
    name = columns.label([by[place] for place in named], [values[place] for place in named])
    ran = {sample.tags.get("precision.effective", "") for sample in samples} - {""}
    if "precision" in by and len(ran) == 1 and ran != {values[list(by).index("precision")]}:
        return f"{name} (ran as {ran.pop()})"
    return name


def _by_seed(sample: Sample) -> tuple[int, str]:
    return (int(sample.seed), "") if sample.seed.isdigit() else (0, sample.seed)
