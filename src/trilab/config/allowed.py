"""What a configuration that comes from a store may build.

A configuration names the classes that it is built of, so that whoever can write to a store, or hand out a checkpoint,
would choose what runs on the machine that reads it. Of such a configuration only classes are built that stand in the
packages named here, and in those that the user names in the environment variable `TRILAB_ALLOW`. It is looked at as
text and source: nothing that it names is imported for that.

What a user types, and what stands in the user's own `--config-dir`, is not restricted.
"""

import os
from collections.abc import Iterator
from typing import Any

from trilab.config.signatures import UnknownTarget, place_of
from trilab.errors import ConfigError

#: Classes anywhere below these.
PACKAGES = (
    "pytorch_lightning.callbacks",
    "torch.optim",
    "trilab.callbacks",
    "trilab.data",
    "trilab.models",
)
#: Classes of packages that also hold what a configuration has no business with.
CLASSES = (
    "pytorch_lightning.Trainer",
    "trilab.precision.Precision",
    "trilab.runtime.Accelerator",
    "trilab.tracking.settings.Tracking",
)
#: The user's own packages, separated by commas: `my_models,our_lab.networks`.
VARIABLE = "TRILAB_ALLOW"


def check_stored(config: Any, source: str) -> None:
    """Refuses a stored configuration that could do more than what trilab's own do.

    Args:
        config: plain containers, as they were read.
        source: what it is of, for the message: `run=...`.

    Raises:
        ConfigError: it builds something that is not allowed, or holds what is resolved only where it is read.
    """
    for path, value in _walk(config, ""):
        if path.rpartition(".")[2] == "_target_":
            _check_target(value, path, source)
        elif isinstance(value, str) and "${" in value:
            raise ConfigError(
                f"{source}: {path}={value} would be resolved on this machine. A stored configuration holds plain "
                "values alone, so something has changed it."
            )


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value with its path, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            below = f"{path}.{key}" if path else str(key)
            yield below, item
            yield from _walk(item, below)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item
            yield from _walk(item, f"{path}[{index}]")


def _check_target(target: Any, path: str, source: str) -> None:
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(f"{source}: {path}={target} is not the name of a class.")
    if not is_allowed(target):
        own = ", ".join(_own())
        raise ConfigError(
            f"{source}: {path}={target} is not allowed in a configuration from a store. Allowed: classes of "
            f"{', '.join(PACKAGES)}{f', {own}' if own else ''}. If you trust it: {VARIABLE}={target.partition('.')[0]}."
        )


def is_allowed(target: str) -> bool:
    """Whether a stored configuration may build what a dotted path names."""
    if target in CLASSES:
        return True
    try:
        # A module may have imported a name from elsewhere: what counts is where it is defined.
        module, is_class = place_of(target)
    except UnknownTarget:
        return False
    own = _own()
    if _below(target, own) and _below(module, own):
        return True
    return is_class and _below(target, PACKAGES) and _below(module, PACKAGES)


def _own() -> tuple[str, ...]:
    return tuple(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())


def _below(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
