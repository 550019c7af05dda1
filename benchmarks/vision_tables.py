"""The tables of `vision_throughput.py`: rates, paired ratios to each baseline, accuracy, and the aims."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trilab.timing import Quartiles, Unsupported, paired_ratio, quartiles

TITLES = {
    "trilab": "**trilab**",
    "bare": "bare tensor loop",
    "plain": "(a) Dataset, DataLoader, plain loop",
    "template": "(b) Lightning template",
    "keras": "(c) Keras on TensorFlow",
}


@dataclass(frozen=True)
class Contender:
    """One row of a table."""

    kind: str
    workers: int | None = None  # of the data loader
    allocator: str = "default"  # glibc's, where the contender does not choose for itself
    steps_per_execution: int = 1  # Keras's

    @property
    def title(self) -> str:
        parts = [TITLES[self.kind]]
        if self.workers is not None:
            parts.append(f"{self.workers} workers")
        if self.allocator == "keep":
            parts.append("trilab's allocator setting")
        if self.steps_per_execution > 1:
            parts.append(f"{self.steps_per_execution} steps an execution")
        return ", ".join(parts)


@dataclass
class Cell:
    """What was measured of one network in one precision."""

    network: str
    precision: str
    steps: int  # of a window
    images: list[int]  # of each window
    seconds: dict[Contender, list[float]]
    peak_mb: dict[Contender, float]
    unsupported: dict[Contender, Unsupported] = field(default_factory=dict)
    accuracy: dict[Contender, list[float]] = field(default_factory=dict)  # by seed

    def best(self, kind: str) -> Contender | None:
        """The fastest contender of a kind as it comes: for a data loader, with the better number of workers."""
        of_kind = [c for c in self.seconds if c.kind == kind and c.allocator == "default"]
        return min(of_kind, key=lambda c: statistics.median(self.seconds[c]), default=None)

    def ratio(self, contender: Contender, kind: str) -> Quartiles | None:
        """How many times as fast as the best of a kind."""
        base = self.best(kind)
        return paired_ratio(self.seconds[contender], self.seconds[base]) if base is not None else None

    def rate(self, contender: Contender) -> Quartiles:
        """Images by the second."""
        seconds = zip(self.images, self.seconds[contender], strict=True)
        return quartiles([images / each for images, each in seconds])

    def step_ms(self, contender: Contender) -> Quartiles:
        return quartiles(self.seconds[contender]).scaled(1000 / self.steps)


def table(cell: Cell) -> str:
    """Rows of all contenders, Markdown."""
    kinds = ["bare", "plain", "template", "keras"]
    names = {"bare": "bare loop", "plain": "(a)", "template": "(b)", "keras": "Keras"}
    head = ["", "images/s, median", "quartiles", "ms a step", *(f"against {names[kind]}" for kind in kinds)]
    lines = [[*head, "peak MiB", "test accuracy"], ["---"] * (len(head) + 2)]
    for contender in [*cell.seconds, *cell.unsupported]:
        row = [contender.title]
        if contender in cell.unsupported:
            lines.append([*row, str(cell.unsupported[contender]), *[""] * (len(head) - 1), ""])
            continue
        rate, step = cell.rate(contender), cell.step_ms(contender)
        row += [f"{rate.median:,.0f}", f"{rate.low:,.0f} to {rate.high:,.0f}", f"{step.median:.3f}"]
        row += [_of(cell.ratio(contender, kind)) for kind in kinds]
        lines.append([*row, f"{cell.peak_mb[contender]:,.0f}", _spread(cell.accuracy.get(contender, []))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _of(ratio: Quartiles | None) -> str:
    return "" if ratio is None else f"{ratio.median:.2f}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f}, {len(values)} seeds)"


def aims(cells: Sequence[Cell]) -> str:
    """What trilab is to reach, what it reached, and whether that is enough; one line each."""
    lines = []
    for cell in cells:
        own = Contender("trilab")
        what = f"{cell.network}, {cell.precision}"
        bare = cell.best("bare")
        if bare is not None and cell.network == "mlp":
            pairs = zip(cell.seconds[own], cell.seconds[bare], strict=True)
            over = statistics.median(1000 * (ours - theirs) / cell.steps for ours, theirs in pairs)
            lines.append(_aim(what, f"{over:.3f} ms a step over the bare loop", "at most 0.35", over <= 0.35))
        elif bare is not None:
            lines.append(_at_least(what, cell.ratio(own, "bare"), "the bare loop", 0.9))
        least = {"mlp": 5.0, "cifar_cnn": 3.0}.get(cell.network)
        if least is not None:
            lines.append(_at_least(what, cell.ratio(own, "plain"), "(a)", least))
        if cell.precision == "fp32":
            lines.append(_at_least(what, cell.ratio(own, "keras"), "Keras", 1.0))
    return "\n".join(line for line in lines if line)


def _at_least(what: str, ratio: Quartiles | None, base: str, least: float) -> str:
    if ratio is None:
        return ""
    return _aim(what, f"{ratio.median:.2f} times {base}", f"at least {least:g}", ratio.median >= least)


def _aim(what: str, found: str, wanted: str, met: bool) -> str:
    return f"- {what}: {found}; aim: {wanted}: {'met' if met else 'missed'}"


def same_start(losses: Mapping[Contender, float], tolerance: float) -> str:
    """Whether those that share weights and order had the same loss in their first step, in words."""
    values = list(losses.values())
    if max(values) - min(values) <= tolerance * max(values):
        return f"same weights and batches: the first step's loss is {values[0]:.4f} for all {len(values)} of ours"
    each = ", ".join(f"{contender.title} {loss:.4f}" for contender, loss in losses.items())
    return f"NOT the same weights and batches: the first step's losses are {each}"
