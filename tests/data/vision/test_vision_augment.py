from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from trilab.data.vision.augment import Augmentation, crop_and_flip, cutout
from trilab.errors import ConfigError

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def some_images(layout, n=12, channels=3, height=6, width=9):
    images = torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8)
    return images.contiguous(memory_format=layout)


def naive(image, padding, top, left, flipped):
    """One image by torch's own padding, in floating point, which holds bytes exactly."""
    image = image.float().flip(2) if flipped else image.float()
    padded = F.pad(image.unsqueeze(0), (padding,) * 4, mode="reflect")[0] if padding else image
    return padded[:, top : top + image.shape[1], left : left + image.shape[2]].to(torch.uint8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [0, 1, 3, 5])
def test_crop_and_flip_is_that_of_each_image_alone(layout, channels, padding):
    torch.manual_seed(padding)
    images = some_images(layout, n=60, channels=channels)
    top, left = torch.randint(2 * padding + 1, (2, 60))
    flipped = torch.randint(2, (60,))
    result = crop_and_flip(images, padding, top, left, flipped)
    expected = [naive(*row) for row in zip(images, [padding] * 60, top, left, flipped, strict=True)]
    assert torch.equal(result, torch.stack(expected))
    assert result.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", [1, 2, 3, 4, 50])
def test_cutout_blanks_a_square_within_the_image(layout, side):
    torch.manual_seed(side)
    images = some_images(layout, n=40).float() + 1
    y, x = torch.randint(6, (40,)), torch.randint(9, (40,))
    expected = images.clone()
    for image, row, column in zip(expected, y.tolist(), x.tolist(), strict=True):
        top, left = row - side // 2, column - side // 2
        image[:, max(0, top) : top + side, max(0, left) : left + side] = 0
    result = cutout(images, side, y, x)
    assert result is images
    assert torch.equal(result, expected)


def test_a_single_pixel_in_a_corner_by_hand():
    images = torch.ones(1, 1, 2, 3)
    assert cutout(images, 2, torch.tensor([0]), torch.tensor([2])).tolist() == [[[[1, 0, 0], [1, 1, 1]]]]


def test_alternating_flips_are_the_opposite_of_the_epoch_before():
    augmentation = Augmentation(flip="alternating")
    everything = torch.arange(1000)
    flips = [augmentation.draw(everything, epoch, 7, 32, 32).flipped for epoch in range(4)]
    assert 440 < int(flips[0].sum()) < 560
    for before, after in pairwise(flips):
        assert torch.equal(after, 1 - before)
    order = torch.randperm(1000)
    assert torch.equal(augmentation.draw(order, 2, 7, 32, 32).flipped, flips[2][order])
    assert not torch.equal(augmentation.draw(everything, 0, 8, 32, 32).flipped, flips[0])


def test_random_draws_are_uniform_and_differ_between_epochs():
    order = torch.arange(40_000)
    augmentation = Augmentation(crop=2, flip="random", cutout=4)
    draws = augmentation.draw(order, 0, 1, 8, 5)
    for values, kinds in ((draws.top, 5), (draws.left, 5), (draws.flipped, 2), (draws.y, 8), (draws.x, 5)):
        counts = torch.bincount(values, minlength=kinds).float()
        assert len(counts) == kinds
        expected = 40_000 / kinds
        assert ((counts - expected) ** 2 / expected).sum() < 29  # chi-square, p < 0.0005 with 7 degrees of freedom
    joint = torch.bincount(draws.top * 5 + draws.left, minlength=25).float()
    assert ((joint - 1600) ** 2 / 1600).sum() < 56  # 24 degrees of freedom, p = 0.0002
    again, later = (augmentation.draw(order, epoch, 1, 8, 5) for epoch in (0, 1))
    assert torch.equal(again.top, draws.top)
    assert not torch.equal(later.top, draws.top)
    assert not torch.equal(later.flipped, draws.flipped)


def test_what_is_switched_off_is_not_done():
    images = some_images(torch.contiguous_format)
    nothing = Augmentation()
    draws = nothing.draw(torch.arange(12), 0, 1, 6, 9)
    assert not nothing.active
    assert nothing.pixels(images, draws) is images
    assert torch.equal(nothing.images(images.float(), draws), images.float())
    flips = Augmentation(flip="random")
    draws = flips.draw(torch.arange(12), 0, 1, 6, 9)
    expected = torch.where(draws.flipped.view(-1, 1, 1, 1) == 1, images.flip(3), images)
    assert torch.equal(flips.pixels(images, draws), expected)
    crops = Augmentation(crop=2)
    assert crops.draw(torch.arange(12), 0, 1, 6, 9).flipped.sum() == 0


def test_a_crop_that_reflection_cannot_pad_is_refused():
    Augmentation(crop=5).check(6, 9)
    with pytest.raises(ConfigError, match=r"data.augment.crop=6: images of 6x9 .* at most 5 pixels"):
        Augmentation(crop=6).check(6, 9)
