"""The machine as trilab sets it up."""

import gc
import subprocess
import sys

import pytest
import torch

from trilab import runtime
from trilab.errors import ConfigError
from trilab.runtime import Accelerator, fast_imports


def test_torchvision_works_beside_any_torch() -> None:
    code = (
        "from trilab.runtime import prepare_imports; prepare_imports(); prepare_imports()\n"
        "import torchvision, torch\n"
        "from torchvision.transforms import v2\n"
        "assert torchvision.models.resnet18()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)\n"
        "assert v2.functional.horizontal_flip(torch.tensor([[1, 2]])).tolist() == [[2, 1]]\n"
        "import pytorch_lightning, torchmetrics"
    )
    subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", code], check=True)


def test_lightning_is_imported_without_the_package_of_signals_which_can_be_had_later() -> None:
    code = (
        "from trilab.runtime import prepare_imports; prepare_imports()\n"
        "import sys, pytorch_lightning, scipy\n"
        "assert not [name for name in sys.modules if name.startswith('scipy.signal')]\n"
        "assert 'signal' not in vars(scipy)\n"
        "from scipy.signal import find_peaks\n"
        "assert find_peaks([0, 1, 0])[0].tolist() == [1]\n"
        "import torch, torchmetrics\n"
        "assert torchmetrics.Accuracy(task='binary')(*torch.ones(2, 3).long()) == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_collector_is_held_off_until_torch_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen_inside() -> int:
        with fast_imports():
            assert not gc.isenabled()
        assert gc.isenabled()
        return gc.get_freeze_count()

    gc.unfreeze()
    try:
        monkeypatch.delitem(sys.modules, "torch")
        assert frozen_inside() > 0  # a sweep imports MLflow first,
        gc.unfreeze()
        assert frozen_inside() > 0  # and torch with its first run
        gc.unfreeze()
        monkeypatch.setitem(sys.modules, "torch", torch)
        with fast_imports():
            assert gc.isenabled()
        assert gc.get_freeze_count() == 0
    finally:
        gc.unfreeze()


def test_settings_take_effect_and_are_recorded() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        recorded = Accelerator("cpu", threads=1, matmul_precision="high", allocator="default").prepare()
        assert torch.get_num_threads() == 1
        assert torch.get_float32_matmul_precision() == "high"
        assert recorded["accelerator.effective"] == "cpu"
        assert recorded["runtime.threads"] == "1"
        assert recorded["runtime.matmul_precision"] == "high"
        assert recorded["device.name"]
        assert int(Accelerator("cpu").prepare()["runtime.threads"]) >= 1
    finally:
        torch.set_float32_matmul_precision(before)


def test_auto_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for present in (["cuda", "cpu"], ["mps", "cpu"], ["cpu"]):
        monkeypatch.setattr(runtime, "available", lambda present=present: present)
        assert Accelerator("auto").device() == present[0]
        assert Accelerator("cpu").device() == "cpu"
    with pytest.raises(ConfigError, match=r"accelerator=mps: this machine has none\. It has: cpu\."):
        Accelerator("mps").device()


@pytest.mark.parametrize(("error_of_medium", "chosen"), [(4e-7, "medium"), (2e-3, "highest")])
def test_auto_matmul_never_gives_up_fp32_grade(
    error_of_medium: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "best_matmul_precision", runtime.best_matmul_precision.__wrapped__)  # not the cached
    monkeypatch.setattr(runtime, "matmul_error", lambda device, setting: error_of_medium)
    assert runtime.best_matmul_precision("cpu") == chosen


def test_matmul_error_is_that_of_fp32_and_restores_the_setting() -> None:
    before = torch.get_float32_matmul_precision()
    assert 1e-8 < runtime.matmul_error("cpu", "highest") < 1e-6
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_kept_block_is_not_faulted_in_again() -> None:
    """Fresh 64 MB tensors, page faults counted by the system: with `keep`, freed memory is used again."""
    code = (
        "import sys, resource\n"
        "from trilab.runtime import set_allocator\n"
        "set_allocator(sys.argv[1])\n"
        "import torch\n"
        "for _ in range(10): torch.ones(1 << 24)\n"  # aligned blocks settle after a few
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): torch.ones(1 << 24)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("keep", "default")
    }
    assert faults["keep"] * 5 < faults["default"] + 5
