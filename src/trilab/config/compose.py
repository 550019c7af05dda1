"""Composition of the configuration: Hydra's, with its errors turned into one line each."""

import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from trilab.config.check import check, unknown_key
from trilab.config.diagnose import diagnose
from trilab.config.launcher import check_launcher
from trilab.errors import ConfigError

OmegaConf.register_new_resolver("trilab.pid", os.getpid, replace=True)

CONFIG_MODULE = "trilab_conf"
CONFIG_NAME = "train"
#: The three fields; a model of one cannot learn from the data of another.
_FIELDS = ("rl", "recsys", "vision")


def compose(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> DictConfig:
    """Composes, resolves and checks the configuration of one run.

    Args:
        overrides: as on the command line: `optimizer.lr=1e-3`, `experiment=vision/mnist_cnn`.
        config_dir: a folder of the user's own groups and options, searched first.

    Raises:
        ConfigError: one line that says what is wrong, what is allowed and the nearest match.
    """
    return compose_with_hydra(overrides, config_dir)[0]


def compose_with_hydra(
    overrides: Sequence[str] = (), config_dir: str | Path | None = None
) -> tuple[DictConfig, dict[str, Any], dict[str, Any]]:
    """The same, and Hydra's own part: the sweeper (`hydra.sweeper`), which is not checked here, and the launcher."""
    config, choices, hydra = _compose(overrides, config_dir)
    check_choices(choices)
    try:
        check(config)
    except ConfigError as error:
        raise _of_another_experiment(error, choices, overrides) from None
    launcher: Any = OmegaConf.to_container(hydra.launcher, resolve=True)
    check_launcher(choices.get("hydra/launcher", ""), launcher)
    sweeper: Any = OmegaConf.to_container(hydra.sweeper, resolve=True)
    return config, {"name": choices.get("hydra/sweeper", ""), **sweeper}, launcher


def compose_unchecked(
    overrides: Sequence[str] = (), config_dir: str | Path | None = None
) -> tuple[DictConfig, dict[str, str]]:
    """The resolved configuration without Hydra's own part, and the chosen option of each group."""
    return _compose(overrides, config_dir)[:2]


def _compose(overrides: Sequence[str], config_dir: str | Path | None) -> tuple[DictConfig, dict[str, str], DictConfig]:
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir {config_dir}: no such folder.")
    search = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir is not None else []
    with _hydra_config(), initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            config = hydra_compose(CONFIG_NAME, [*search, *overrides], return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            choices = {str(group): str(option) for group, option in config.hydra.runtime.choices.items()}
            resolved = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            OmegaConf.resolve(resolved)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise diagnose(error, overrides, search) from None
    OmegaConf.set_struct(resolved, True)
    return resolved, choices, config.hydra


def option_alone(group: str, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """One option of a group as it is in its file, without an experiment on top.

    Raises:
        ConfigError: there is no such option.
    """
    chosen = [f"{group}={name}", *overrides]
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            config = hydra_compose(CONFIG_NAME, ["~experiment", *chosen])
            node: Any = OmegaConf.to_container(config[group], resolve=True)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise diagnose(error, chosen) from None
    return {str(key): value for key, value in node.items()}


def set_value(config: DictConfig, key: str, value: object, adding: bool) -> None:
    """Sets one value of a composed configuration.

    Args:
        adding: the key may be new (`+key=value`).

    Raises:
        ConfigError: there is no such key.
    """
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig):
        raise unknown_key("", key, {str(k) for k in config})
    if name not in node and not adding:
        raise unknown_key(parent, name, {str(k) for k in node} - {"_target_", "_partial_"})
    with open_dict(node):
        node[name] = value


def check_choices(choices: dict[str, str]) -> None:
    """Refuses a model of one field on the data of another."""
    model, data = choices.get("model", ""), choices.get("data", "")
    model_field, data_field = model.partition("/")[0], data.partition("/")[0]
    if model_field in _FIELDS and data_field in _FIELDS and model_field != data_field:
        raise ConfigError(
            f"model={model} cannot learn from data={data}. Choose data={model_field}/... or model={data_field}/..., "
            f"or an experiment of that field: experiment={model_field}/..."
        )


def _of_another_experiment(error: ConfigError, choices: dict[str, str], overrides: Sequence[str]) -> ConfigError:
    """The same error; where an option was chosen whose keys are not those that the experiment sets, with what fits."""
    from trilab.config.catalog import experiments_with  # which needs this module

    for group in ("model", "data", "optimizer"):
        chosen = f"{group}={choices.get(group)}"
        if chosen in overrides and str(error).startswith(f"{group}.") and "no such key" in str(error):
            fitting = experiments_with(group, choices[group]) if group != "optimizer" else []
            key = str(error).partition(":")[0]
            hint = f" Choose one of {', '.join(fitting)}." if fitting else ""
            return ConfigError(
                f"{key} is set by experiment={choices['experiment']}, and {chosen} has no such key: the experiment is "
                f"made for another {group}.{hint}"
            )
    return error


@contextmanager
def _hydra_config() -> Any:
    """`${hydra:...}` resolves inside; whatever Hydra application is running keeps its own configuration."""
    before, running = HydraConfig.instance().cfg, GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        HydraConfig.instance().cfg, GlobalHydra.instance().hydra = before, running
