"""Images in, class probabilities out."""

import base64
import binascii
import io
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model
from torch import Tensor

from trilab.serving.contract import BadInput, Contract

#: Pillow's names of pixels, by the number of channels.
_MODES = {1: "L", 3: "RGB"}


class ImageAnswer(BaseModel):
    """For each image the likeliest class, and the probability of every class."""

    classes: list[int] = Field(description="the likeliest class, counted from 0")
    probabilities: list[list[float]] = Field(description="of every class; they add up to 1")


class ImageBytes(Contract):
    """Images of one size, as nested lists of bytes or as PNG files in base64.

    Args:
        channels: 1 for grey, 3 for red, green and blue.
        height: in pixels.
        width: in pixels.
        classes: how many there are.
    """

    kind: ClassVar[str] = "images"

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        self.channels = channels
        self.height = height
        self.width = width
        self.classes = classes

    def describe(self) -> dict[str, Any]:
        return {"channels": self.channels, "height": self.height, "width": self.width, "classes": self.classes}

    def request(self, max_rows: int) -> type[BaseModel]:
        byte: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 255}
        nested = byte
        for size in (self.width, self.height, self.channels):
            nested = {"type": "array", "items": nested, "minItems": size, "maxItems": size}
        png = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
        # Checked as an array: pydantic would look at each of a million bytes by itself.
        image = Annotated[Any, WithJsonSchema({"anyOf": [png, nested]})]
        about = (
            f"each a PNG file in base64, or bytes as nested lists ({self.channels}, {self.height}, {self.width})"
            + (f" or ({self.height}, {self.width})" if self.channels == 1 else "")
        )
        field = Field(min_length=1, max_length=max_rows, description=about)
        return create_model("ImagesRequest", __config__=ConfigDict(extra="forbid"), images=(list[image], field))

    def response(self) -> type[BaseModel]:
        return ImageAnswer

    def inputs(self, body: Any) -> tuple[Tensor, ...]:
        return (torch.from_numpy(np.stack([self._image(image, row) for row, image in enumerate(body.images)])),)

    def _image(self, image: Any, row: int) -> np.ndarray:
        if isinstance(image, str):
            return self._png(image, row)
        shape = (self.channels, self.height, self.width)
        try:
            array = np.asarray(image)
        except ValueError:
            raise BadInput(f"images[{row}]: lists of unequal lengths, expected shape {shape}.") from None
        if self.channels == 1 and array.shape == shape[1:]:
            array = array[None]
        if array.shape != shape:
            raise BadInput(f"images[{row}]: shape {array.shape}, expected {shape}.")
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
            raise BadInput(f"images[{row}]: expected whole numbers from 0 to 255.")
        return array.astype(np.uint8)

    def _png(self, text: str, row: int) -> np.ndarray:
        from PIL import Image

        if self.channels not in _MODES:
            raise BadInput(f"images[{row}]: a PNG file has no {self.channels} channels here; send nested lists.")
        try:
            with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as picture:
                if picture.size != (self.width, self.height):  # before its pixels are unpacked
                    size = f"{picture.width}x{picture.height}"
                    raise BadInput(f"images[{row}]: {size} pixels, expected {self.width}x{self.height}.")
                array = np.asarray(picture.convert(_MODES[self.channels]))
        except (binascii.Error, OSError, SyntaxError, ValueError):
            raise BadInput(f"images[{row}]: a text that is no PNG file in base64.") from None
        return array[None] if self.channels == 1 else array.transpose(2, 0, 1).copy()

    def frame_inputs(self, frame: Any) -> tuple[Tensor, ...]:
        array = np.asarray(frame)
        if array.shape[1:] != (self.channels, self.height, self.width):
            shape = (self.channels, self.height, self.width)
            raise BadInput(f"images of shape {array.shape[1:]}, expected {shape}.")
        return (torch.from_numpy(np.array(array, np.uint8)),)

    def answer(self, output: Tensor) -> dict[str, np.ndarray]:
        probabilities = output.double().softmax(-1).cpu().numpy()
        return {"classes": probabilities.argmax(-1), "probabilities": probabilities}

    def example(self) -> np.ndarray:
        return np.zeros((2, self.channels, self.height, self.width), np.uint8)

    def signature(self) -> Any:
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        return ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, self.channels, self.height, self.width))]),
            outputs=Schema(
                [
                    TensorSpec(np.dtype("int64"), (-1,), "classes"),
                    TensorSpec(np.dtype("float64"), (-1, self.classes), "probabilities"),
                ]
            ),
        )
