"""What makes figures of several runs not comparable, and has to be said beside them."""

from collections import Counter
from collections.abc import Sequence

from trilab.compare.columns import value
from trilab.compare.samples import Sample


def notes_on(samples: Sequence[Sample]) -> list[str]:
    """A line for each thing that a reader has to know."""
    found = [_precision, _machines, _code, _side_by_side, _one_process, _batches]
    return [note for notes in found for note in notes(samples)]


def _precision(samples: Sequence[Sample]) -> list[str]:
    ran = Counter(
        (value(sample, "precision"), sample.tags["precision.effective"], sample.tags.get("device.name", "?"))
        for sample in samples
        if "precision.effective" in sample.tags
    )
    return [
        f"{count} runs asked for {asked} and ran as {effective} on {device}: they tell nothing of {asked}."
        for (asked, effective, device), count in ran.items()
        if asked != effective
    ]


def _machines(samples: Sequence[Sample]) -> list[str]:
    notes = []
    devices = Counter(sample.tags["device.name"] for sample in samples if "device.name" in sample.tags)
    if len(devices) > 1:
        each = ", ".join(f"{name} ({count} runs)" for name, count in devices.items())
        notes.append(f"Mixed hardware: {each}. Times and memory of different devices say nothing of the settings.")
    threads = sorted({sample.tags["runtime.threads"] for sample in samples if "runtime.threads" in sample.tags})
    if len(threads) > 1:
        notes.append(f"The runs had different numbers of threads: {', '.join(threads)}. Their times do not compare.")
    return notes


def _code(samples: Sequence[Sample]) -> list[str]:
    commits = {sample.tags["git.commit"][:10] for sample in samples if "git.commit" in sample.tags}
    dirty = sum(sample.tags.get("git.dirty") == "true" for sample in samples)
    notes = [f"The runs were made with {len(commits)} commits of the code."] if len(commits) > 1 else []
    return [*notes, *([f"{dirty} runs were made with code that was not committed."] if dirty else [])]


def _side_by_side(samples: Sequence[Sample]) -> list[str]:
    """Runs that went on at the same time on one machine, and so slowed each other down."""
    processes = {sample.process: sample for sample in samples if sample.tags.get("process.host")}
    at_once = 0
    for host in {sample.tags["process.host"] for sample in processes.values()}:
        last = 0.0
        for sample in sorted(
            (s for s in processes.values() if s.tags["process.host"] == host), key=lambda s: s.started
        ):
            at_once += sample.started < last - 1.0
            last = max(last, sample.ended)
    if not at_once:
        return []
    return [f"{at_once} runs were started while another was going on on the same machine: their times are too long."]


def _one_process(samples: Sequence[Sample]) -> list[str]:
    """On a CPU memory is what the whole process holds, and a sweep on the basic launcher makes its runs in one."""
    keys = ("process.host", "process.pid", "process.start")
    cpu = {s.process: s for s in samples if s.tags.get("accelerator.effective") != "cuda" and "process.pid" in s.tags}
    runs = Counter(tuple(s.tags.get(key, "") for key in keys) for s in cpu.values())
    if max(runs.values(), default=0) < 2:
        return []
    return [
        "Several runs were made by one process: their peak memory holds what earlier runs left, and does not compare."
    ]


def _batches(samples: Sequence[Sample]) -> list[str]:
    sizes = sorted({sample.agents for sample in samples})
    if len(sizes) > 1:
        return [
            f"Agents were trained {' or '.join(map(str, sizes))} at once: speed, time and memory are of all agents of "
            "a process together, and do not compare between such runs."
        ]
    return [f"Speed, time and memory are of {sizes[0]} agents trained at once."] if sizes[0] > 1 else []
