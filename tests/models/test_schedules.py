"""Schedules at points worked out by hand, and their way into a fit."""

import math

import pytest

from trilab.models.schedules import Constant, Cosine, Linear, Triangular


def test_values_by_hand() -> None:
    assert [Constant()(p) for p in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]
    linear = Linear(warmup=0.2, final=0.1)
    assert [linear(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1])
    cosine = Cosine(warmup=0.0, final=0.0)
    assert [cosine(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, (1 + math.sqrt(0.5)) / 2, 0.5, 0.0])
    assert Cosine(warmup=0.5, final=0.2)(0.25) == pytest.approx(0.5)
    assert Cosine(warmup=0.5, final=0.2)(1.0) == pytest.approx(0.2)


def test_the_triangle_by_hand() -> None:
    triangle = Triangular(start=0.2, peak=0.25, end=0.07)
    assert [triangle(p) for p in (0.0, 0.125, 0.25)] == pytest.approx([0.2, 0.6, 1.0])
    assert [triangle(p) for p in (0.625, 1.0)] == pytest.approx([1 - 0.93 / 2, 0.07])
    assert Triangular(peak=0.0)(0.0) == 1.0  # down from the first step on


def test_the_triangle_is_the_published_scripts() -> None:
    """airbench94.py's rate by step, with its peak at a whole step (109 of 476; 0.23 of 476 is 109.48)."""
    total, up = 476, 109
    triangle = Triangular(start=0.2, peak=up / total, end=0.07)
    for step in range(total):
        share = step / up if step < up else (step - up) / (total - up)
        theirs = 0.2 * (1 - share) + share if step < up else (1 - share) + 0.07 * share
        assert triangle(step / total) == pytest.approx(theirs, abs=1e-9)
