"""The protocol of every timing: order of the windows, what is inside one, medians and paired ratios."""

import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch

from trilab import timing
from trilab.errors import UserError
from trilab.timing import Loop, Quartiles, Unsupported, interleave, paired_ratio, quartiles


@dataclass
class Scripted:
    """An arm that takes as long as it is told to."""

    name: str
    seconds: list[float]
    journal: list[str] = field(default_factory=list)

    def window(self) -> float:
        self.journal.append(self.name)
        return self.seconds.pop(0)


def test_windows_take_turns_in_alternating_direction() -> None:
    journal: list[str] = []
    arms = [Scripted(name, [1.0, 2.0, 3.0, 4.0, 5.0], journal) for name in "ABC"]
    seconds = interleave(arms, 5)
    assert "".join(journal) == "ABC" + "CBA" + "ABC" + "CBA" + "ABC"
    assert list(seconds) == ["A", "B", "C"]
    assert all(values == [1.0, 2.0, 3.0, 4.0, 5.0] for values in seconds.values())


def test_too_few_windows_are_refused_before_any_is_run() -> None:
    arm = Scripted("A", [])
    with pytest.raises(UserError, match=r"^4 windows are too few .* at least 5\.$"):
        interleave([arm], 4)
    assert not arm.journal
    with pytest.raises(ValueError, match="4 windows"):
        quartiles([1.0] * 4)


def test_arms_of_one_name_would_overwrite_each_other() -> None:
    with pytest.raises(ValueError, match="same name"):
        interleave([Scripted("A", []), Scripted("A", [])], 5)


def test_quartiles() -> None:
    values = [7.0, 1.0, 4.0, 9.0, 2.0, 8.0]
    low, median, high = statistics.quantiles(values, method="inclusive")
    assert quartiles(values) == pytest.approx((median, low, high))
    assert quartiles([5.0, 1.0, 3.0, 2.0, 4.0]) == (3.0, 2.0, 4.0)
    assert quartiles([5.0, 1.0, 3.0, 2.0, 4.0]).scaled(1000) == (3000.0, 2000.0, 4000.0)
    # 12 samples in a window of 3 s, 2 s and 4 s: the slow end of the seconds is the low end of the rate.
    assert Quartiles(3.0, 2.0, 4.0).rate(12.0) == (4.0, 3.0, 6.0)


def test_a_speed_up_does_not_see_a_machine_that_grows_slower() -> None:
    slowdown = [1.0, 1.5, 3.0, 2.0, 10.0, 4.0]
    base, fast = [0.6 * s for s in slowdown], [0.2 * s for s in slowdown]
    assert paired_ratio(fast, base) == pytest.approx((3.0, 3.0, 3.0))
    # The ratios of the two medians would be 2 and 1 here.
    assert paired_ratio([1, 1, 1, 2, 2], [1, 1, 2, 2, 4]).median == pytest.approx(1.0)
    assert paired_ratio([1, 1, 2, 2, 2], [2, 2, 2, 4, 2]).median == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no pairs"):
        paired_ratio([1.0] * 5, [1.0] * 6)


def test_a_loop_warms_up_once_and_reads_the_clock_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(timing, "synchronize", lambda device: events.append(f"wait for {device}"))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(len(events)))
    loop = Loop("A", lambda: events.append("step"), steps=3, warmup=2, device="cpu")
    window = ["wait for cpu", "step", "step", "step", "wait for cpu"]
    assert loop.window() == 4.0  # from after the first wait to after the second
    assert events == ["step", "step", *window]
    events.clear()
    loop.window()
    assert events == window


def test_unsupported_is_printed_as_such() -> None:
    assert str(Unsupported("this device cannot compute in float16")) == "unsupported"


def test_it_needs_neither_torch_nor_lightning() -> None:
    code = "import sys, trilab.timing; assert not {'torch', 'pytorch_lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
@pytest.mark.parametrize("mode", ["keep", "default"])
def test_the_allocator_in_effect_is_found_by_trial(mode: str) -> None:
    code = f"from trilab import runtime, timing; runtime.set_allocator({mode!r}); print(timing.allocator())"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={})
    assert found.stdout.strip() == mode


def test_machine_settings_state_what_a_timing_depends_on() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("high")
        settings = timing.machine_settings("cpu", memory_format="channels_last")
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
    assert settings["torch"] == torch.__version__
    assert (settings["device"], settings["threads"], settings["matmul_precision"]) == ("cpu", "1", "high")
    assert settings["memory_format"] == "channels_last"
    assert all(settings[key] for key in ("machine", "cores", "platform", "python", "numpy", "allocator"))


def test_peak_memory_counts_from_its_reset() -> None:
    code = (
        "import torch\n"
        "from trilab.timing import peak_memory_mb, reset_peak_memory\n"
        "block = torch.ones(64, 2**20)  # 256 MiB\n"
        "with_block = peak_memory_mb('cpu')\n"
        "del block\n"
        "reset_peak_memory('cpu')\n"
        "without = peak_memory_mb(torch.device('cpu'))\n"
        "print(with_block, without)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    with_block, without = map(float, found.stdout.split())
    assert with_block > 256
    if sys.platform == "linux":
        assert 200 < with_block - without < 300
