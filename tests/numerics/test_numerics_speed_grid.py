"""The grid's cells: what they hold, and that a precision that does not run as asked fills none."""

import pytest
import torch

from trilab.errors import ConfigError
from trilab.numerics import speed_grid
from trilab.numerics.speed_grid import Cell, Step, measure
from trilab.timing import Quartiles, Unsupported


def test_steps_of_two_precisions_start_alike_and_train() -> None:
    steps = [Step(8, 4, name, "cpu") for name in ("fp32", "bf16-mixed")]
    weights = [[own.clone() for own in step._network.parameters()] for step in steps]
    assert all(torch.equal(first, second) for first, second in zip(*weights, strict=True))
    for step, before in zip(steps, weights, strict=True):
        step()
        assert not torch.equal(before[0], next(step._network.parameters()))
    with pytest.raises(ConfigError, match="16-mixed runs as bf16-mixed on cpu"):
        Step(8, 4, "16-mixed", "cpu")


def test_a_cell_that_does_not_run_as_asked_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_grid, "memory_mb", lambda *_: 12.0)
    cells = list(measure([8], [4], "cpu", windows=5, window_s=1e-4))
    assert [cell.precision for cell in cells] == ["fp32", "bf16-mixed", "16-mixed"]
    assert all(isinstance(cell.step_ms, Quartiles) and cell.memory_mb == 12.0 for cell in cells[:2])
    assert cells[0].speedup == Quartiles(1.0, 1.0, 1.0)
    assert all(isinstance(value, Unsupported) for value in (cells[2].step_ms, cells[2].speedup, cells[2].memory_mb))
    assert isinstance(cells[2], Cell)


@pytest.mark.slow
def test_memory_is_what_weights_gradients_and_moments_take() -> None:
    found = speed_grid.memory_mb(2048, 8, "fp32", "cpu")
    assert isinstance(found, float)
    weights = 3 * 2048 * 2048 * 4 / 2**20  # 48 MiB; as much for gradients, twice for Adam's moments
    assert 0.9 * 4 * weights < found < 1.5 * 4 * weights
