"""What a model needs to know of an image data set."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageSpec:
    """Images of one size, each of one of `classes` classes.

    A batch is `(images, labels)`: float32 (batch, channels, height, width), normalised, and int64 (batch,).
    """

    channels: int
    height: int  # pixels
    width: int  # pixels
    classes: int
