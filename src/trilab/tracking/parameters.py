"""A configuration as MLflow's parameters."""

import json
from collections.abc import Mapping
from typing import Any

#: MLflow's limit on the characters of a parameter's value.
_LENGTH = 6000
_CUT = " …[shortened; whole in config.yaml]"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by dotted name, as text: `optimizer.lr` -> `0.001`; lists as JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, str):
            flat[name] = value
        else:
            flat[name] = json.dumps(value)
    return flat


def shortened(value: str) -> str:
    """A value that fits into an MLflow parameter; a longer one says that it was shortened."""
    return value if len(value) <= _LENGTH else value[: _LENGTH - len(_CUT)] + _CUT
