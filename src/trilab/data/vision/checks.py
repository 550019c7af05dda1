"""What the data's settings must fulfil together. Found by `trilab.config.check`, before torch is imported."""

from collections.abc import Mapping
from typing import Any

from trilab.errors import ConfigError


def check_torchvision_images(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where `TorchvisionImages` could not work as configured.

    Args:
        values: its constructor's arguments by name.
    """
    _channels(values, 1, "grey images")


def check_cifar(values: Mapping[str, Any]) -> None:
    """The same of `Cifar`."""
    _channels(values, 3, "colour images")


def check_image_folder(values: Mapping[str, Any]) -> None:
    """The same of `ImageFolder`."""
    _channels(values, 3 if values["mode"] == "rgb" else 1, f"data.mode={values['mode']}")
    if values["test"] is not None and values["test"] == values["train"]:
        raise ConfigError(f"data.test={values['test']}: the same folder as data.train. Name another, or null.")
    if values["test"] is None and not values["test_fraction"]:
        raise ConfigError("data.test=null data.test_fraction=0: no images to test on. Set one of the two.")


def _channels(values: Mapping[str, Any], channels: int, why: str) -> None:
    for name in ("mean", "std"):
        if len(values[name]) != channels:
            raise ConfigError(
                f"data.{name}={values[name]}: {len(values[name])} values, where {why} "
                f"{'have' if why.endswith('images') else 'has'} {channels} channel{'s' if channels > 1 else ''}. "
                "Give one each."
            )


#: By the name of the class whose arguments are checked.
CHECKS = {"TorchvisionImages": check_torchvision_images, "Cifar": check_cifar, "ImageFolder": check_image_folder}
