"""What is otherwise here than it was for an earlier run: code, packages, device."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from trilab.tracking.lookup import StoredRun
from trilab.tracking.provenance import environment, git

#: Packages whose version can change a number.
PACKAGES = (
    "python",
    "trilab",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "numpy",
    "gymnasium",
    "ale-py",
    "box2d",
    "pyarrow",
    "duckdb",
    "pillow",
    "hydra-core",
    "omegaconf",
)
#: Tags of a run that say how it was computed, and the words for them.
_TAGS = {
    "accelerator.effective": "accelerator",
    "device.name": "device",
    "runtime.threads": "threads",
    "runtime.matmul_precision": "fp32 matmul precision",
    "runtime.memory_format": "memory format",
    "precision.effective": "precision",
    "trilab.config_hash": "configuration (hash)",
}
_NONE = "-"


def differences(stored: StoredRun, here: Mapping[str, str], folder: Path) -> list[tuple[str, str, str]]:
    """What differs, in the run, and here; in that order.

    Args:
        stored: the run.
        here: tags that a run would have now, by the same names.
        folder: artifacts are downloaded to it.
    """
    tags, diff = git()
    pairs = [
        ("commit of the code", stored.tags.get("git.commit", _NONE), tags.get("git.commit", _NONE)),
        ("changes since the commit", _digest(stored.text("git.diff", folder)), _digest(diff)),
    ]
    theirs, ours = versions(stored.text("environment.txt", folder)), versions(environment())
    pairs += [(name, theirs.get(name, _NONE), ours.get(name, _NONE)) for name in PACKAGES]
    others = [name for name in {*theirs, *ours} - {*PACKAGES} if theirs.get(name) != ours.get(name)]
    pairs += [(word, stored.tags.get(tag, _NONE), here.get(tag, _NONE)) for tag, word in _TAGS.items()]
    found = [(what, then, now) for what, then, now in pairs if then != now]
    if others:
        found.append(("other packages", f"{len(others)} differ", ", ".join(sorted(others)[:5])))
    return found


def versions(text: str) -> dict[str, str]:
    """Versions by lower-case name, from `environment.txt` as `provenance.environment` writes it."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, version = line.partition("==")
        if line.startswith("# python "):
            found["python"] = line.removeprefix("# python ")
        elif separator:
            found[name.lower()] = version
    return found


def _digest(diff: str) -> str:
    lines = sum(line.startswith(("+", "-")) and not line.startswith(("+++", "---")) for line in diff.splitlines())
    return f"{lines} lines (sha256 {hashlib.sha256(diff.encode()).hexdigest()[:8]})" if diff else "none"
