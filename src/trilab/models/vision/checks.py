"""What a classifier's settings must fulfil together. Found by `trilab.config.check`, before torch is imported."""

from collections.abc import Mapping
from typing import Any

from trilab.errors import ConfigError


def check_classifier(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where `Classifier` could not work as configured.

    Args:
        values: its constructor's arguments by name.
    """
    network, lookahead = values.get("network"), values.get("lookahead")
    if not isinstance(network, Mapping) or "_target_" not in network:
        raise ConfigError(
            f"model.network={_shown(network)}: expected a network to build, with a _target_. "
            "Choose one with model=<option>, as in model=vision/cifar_cnn."
        )
    if network.get("_partial_") is not True:
        raise ConfigError("model.network._partial_: expected true, for the image size comes from the data.")
    if lookahead is not None and not (isinstance(lookahead, Mapping) and "_target_" in lookahead):
        raise ConfigError(
            f"model.lookahead={_shown(lookahead)}: expected null, or what to build, with a _target_, as in "
            "model=vision/airbench."
        )


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


#: By the name of the class whose arguments are checked.
CHECKS = {"Classifier": check_classifier}
