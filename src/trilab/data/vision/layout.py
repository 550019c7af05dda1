"""Image batches in the two layouts that torch knows, seen as lines of pixels.

A tensor has the shape (n, channels, height, width) whether it lies in memory channel after channel
(`contiguous_format`) or pixel after pixel (`channels_last`). Whoever moves whole lines need not know which: a line is
`width` numbers of one channel in the first, and `width * channels` in the second. Operations along lines are vectorised
in both; broadcasting over channels_last's innermost axis of 3 is not.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def lines(images: Tensor) -> Tensor:
    """(n, channels, height, width) as (n, planes, height, line) in the order of memory, contiguous.

    A view where the images are contiguous in either layout. `planes * line` is `channels * width`.
    """
    if images.is_contiguous():
        return images
    n, channels, height, width = images.shape
    return images.permute(0, 2, 3, 1).reshape(n, 1, height, width * channels)


def images_of(rows: Tensor, channels: int) -> Tensor:
    """The inverse of `lines`: a view (n, channels, height, width)."""
    n, planes, height, line = rows.shape
    if planes == channels:
        return rows
    return rows.view(n, height, line // channels, channels).permute(0, 3, 1, 2)


def layout_of(weights: Iterable[Tensor]) -> torch.memory_format:
    """The layout that a network wants its images in: that of its convolutions.

    One without convolutions flattens its images, in the order (channels, height, width).
    """
    last = any(
        not is_lazy(weight)  # without a shape before its first batch
        and weight.dim() == 4
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not weight.is_contiguous()
        for weight in weights
    )
    return torch.channels_last if last else torch.contiguous_format
