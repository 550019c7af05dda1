"""The tables of `recsys_throughput.py`: medians, ranges, and ratios of measurements that were made in the same turn."""

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

TITLES = {"deepctr": "DeepCTR-Torch", "fuxictr": "FuxiCTR", "meta": "Meta's loop", "recbole": "RecBole"}
TITLES |= {"plain": "plain loop", "floor": "bare loop", "trilab": "trilab"}


@dataclass(frozen=True)
class Contender:
    """One row of a model's table."""

    model: str
    kind: str
    optimizer: str = ""
    precision: str = "fp32"
    matmul: str = "highest"
    table_rows: int = 0

    @property
    def title(self) -> str:
        ours = self.kind in ("trilab", "floor")
        how = f"fp32 {self.matmul}" if ours and self.precision == "fp32" else self.precision
        rows = f"{self.table_rows:,} rows" if self.table_rows else ""
        return ", ".join(part for part in (TITLES[self.kind], self.optimizer, how, rows) if part)


Result = dict[str, float]


def table(results: Mapping[Contender, Sequence[Result]]) -> str:
    """Rates of one model's contenders, and their ratios to the others'."""
    bases = [contender for contender in results if contender.kind not in ("trilab", "floor")]
    floors = any(contender.kind == "floor" for contender in results)
    head = ["", "samples/s, median", "min to max", *(f"against {TITLES[base.kind]}" for base in bases)]
    head += ["against the bare loop"] * floors + ["AUC, median", "peak MiB"]
    lines = [head, ["---"] * len(head)]
    for contender, found in results.items():
        rates = [result["samples_per_s"] for result in found]
        row = [contender.title, f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}"]
        row += [_ratio(rates, results.get(base)) for base in bases]
        if floors:
            floor = replace(contender, kind="floor", matmul=effective_matmul(contender.matmul))
            row.append(_ratio(rates, results.get(floor)))
        areas = [result["auc"] for result in found if "auc" in result]
        row.append(f"{statistics.median(areas):.4f}" if areas else "")
        lines.append([*row, f"{statistics.median(result['peak_mb'] for result in found):,.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratio(rates: Sequence[float], base: Sequence[Result] | None) -> str:
    ratios = [rate / result["samples_per_s"] for rate, result in zip(rates, base, strict=True)] if base else []
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def table_of_sizes(results: Mapping[Contender, Sequence[Result]]) -> str:
    """Step times by the table's size, and ratios to that with the smallest in the same turn."""
    lines = [["", "ms a step, median", "min to max", "against the smallest table", "peak MiB"], ["---"] * 5]
    smallest = min(contender.table_rows for contender in results)
    for contender, found in results.items():
        times = [result["step_ms"] for result in found]
        base = [result["step_ms"] for result in results[replace(contender, table_rows=smallest)]]
        ratio = statistics.median(time / other for time, other in zip(times, base, strict=True))
        row = [contender.title, f"{statistics.median(times):.1f}", f"{min(times):.1f} to {max(times):.1f}"]
        lines.append([*row, f"{ratio:.3f}", f"{statistics.median(result['peak_mb'] for result in found):,.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@functools.cache
def effective_matmul(setting: str) -> str:
    """What trilab's `auto` comes to on this machine."""
    from trilab.runtime import best_matmul_precision

    return best_matmul_precision("cpu") if setting == "auto" else setting
