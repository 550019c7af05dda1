"""Schedules at points worked out by hand, and their way into a fit."""

import math

import pytest

from trilab.models.schedules import Constant, Cosine, Linear


def test_values_by_hand() -> None:
    assert [Constant()(p) for p in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]
    linear = Linear(warmup=0.2, final=0.1)
    assert [linear(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1])
    cosine = Cosine(warmup=0.0, final=0.0)
    assert [cosine(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, (1 + math.sqrt(0.5)) / 2, 0.5, 0.0])
    assert Cosine(warmup=0.5, final=0.2)(0.25) == pytest.approx(0.5)
    assert Cosine(warmup=0.5, final=0.2)(1.0) == pytest.approx(0.2)
