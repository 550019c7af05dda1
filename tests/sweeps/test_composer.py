"""Whatever the way to it, a run's configuration is the one that Hydra composes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from trilab.config.compose import CONFIG_MODULE, CONFIG_NAME
from trilab.sweeps.composer import Composer

CLICKS = "experiment=recsys/deepfm_synthetic"
#: The runs of a sweep, one after the other, by what is different among them.
SWEEPS = {
    "plain values": [[CLICKS, f"seed={seed}", f"optimizer.lr={lr}"] for seed in (1, 2) for lr in (1e-3, 0.5)],
    "quoted and empty ones": [
        [CLICKS, f"sweep.name={name}"] for name in ("one", "'a=b, c'", '"7"', "null", "7", "''")
    ],
    "options": [[f"experiment=recsys/{name}_movielens_100k", f"seed={s}"] for name in ("mf", "fm") for s in (1, 2)],
    "options and values": [
        [CLICKS, f"precision={p}", f"seed={s}"] for p in ("fp32", "bf16-mixed") for s in (1, 2)
    ],
    "lists": [[CLICKS, f"model.network.hidden={hidden}", "seed=1"] for hidden in ("[8]", "[4,2]", "[]", "[8]")],
    "added keys": [[CLICKS, f"+tracking.tags.{key}=1", f"seed={s}"] for key in "ab" for s in (1, 2)],
    "dictionaries": [[CLICKS, f"+tracking.tags={{{key}:1}}", "seed=1"] for key in "abc"],
    "one key twice": [[CLICKS, "seed=1", "seed=2"], [CLICKS, "seed=3", "seed=4"]],
    "interpolations": [[CLICKS, f"trainer.max_epochs={value}", f"seed={s}"] for s in (3, 4)
                       for value in ("${seed}", 5)],
    "deleted keys": [[CLICKS, "~model.network.hidden", "model=recsys/fm", f"seed={s}"] for s in (1, 2)],
    "Hydra's own": [[CLICKS, f"hydra.job.name={name}", f"seed={s}"] for name in "xy" for s in (1, 2)],
}  # fmt: skip


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def whole(config: DictConfig) -> Any:
    return OmegaConf.to_container(config), {
        flag: OmegaConf.is_struct(config) if flag == "struct" else OmegaConf.is_readonly(config)
        for flag in ("struct", "readonly")
    }


class Counting:
    """A loader that counts how often it composes."""

    def __init__(self, loader: ConfigLoader) -> None:
        self.loader, self.count = loader, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def load_sweep_config(self, *arguments: Any) -> DictConfig:
        self.count += 1
        return self.loader.load_sweep_config(*arguments)


@pytest.mark.parametrize(
    ("name", "compositions"),
    [
        ("plain values", 1),
        ("quoted and empty ones", 1),
        ("options", 2),
        ("options and values", 2),
        ("lists", 3),
        ("added keys", 2),
        ("dictionaries", 3),
        ("one key twice", 1),
        ("interpolations", 2),
        ("deleted keys", 1),
        ("Hydra's own", 2),
    ],
)
def test_it_is_what_hydra_composes_with_fewer_compositions(name: str, compositions: int, loader: ConfigLoader) -> None:
    master = loader.load_configuration(CONFIG_NAME, [CLICKS], RunMode.MULTIRUN)
    counting: Any = Counting(loader)
    composer = Composer(counting)
    for overrides in SWEEPS[name]:
        config = composer.load_sweep_config(master, list(overrides))
        assert whole(config) == whole(loader.load_sweep_config(master, list(overrides)))
        config.seed = 1_000_000  # what becomes of it is nothing to those that follow
        config.hydra.overrides.task.append("spoiled=1")
    assert counting.count == compositions


def test_a_group_of_the_users_own_is_no_plain_value(tmp_path: Path, loader: ConfigLoader) -> None:
    for name, width in (("a", 1), ("b", 2)):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / f"{name}.yaml").write_text(f"width: {width}\n")
    found = f"hydra.searchpath=[file://{tmp_path}]"
    master = loader.load_configuration(CONFIG_NAME, [CLICKS, found], RunMode.MULTIRUN)
    composer = Composer(loader)
    widths = [
        composer.load_sweep_config(master, [CLICKS, f"+mine={name}", f"seed={seed}"]).mine.width
        for name, seed in (("a", 1), ("b", 1), ("a", 2), ("b", 2))
    ]
    assert widths == [1, 2, 1, 2]


def test_a_key_that_is_not_there_is_refused_as_by_hydra(loader: ConfigLoader) -> None:
    master = loader.load_configuration(CONFIG_NAME, [CLICKS], RunMode.MULTIRUN)
    for _ in range(2):
        with pytest.raises(HydraException, match=r"optimizer\.rate"):
            Composer(loader).load_sweep_config(master, [CLICKS, "optimizer.rate=1"])
