"""Composition of a sweep's runs: Hydra's own for the first of a kind, a copy with other values for the others."""

import copy
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from trilab.config.catalog import GROUPS


class Composer:
    """A config loader for Hydra's launchers that reads the files once for all runs with the same options.

    Hydra composes each run of a sweep from its files, a good part of what a short run takes. Where runs differ in plain
    values alone (`optimizer.lr=1e-3`, `seed=2`), what it makes differs in those and in the list of overrides.
    All else is composed anew: another option of a group, a key that is added or deleted, a list or a dictionary, which
    Hydra would merge, an interpolation.

    Args:
        loader: Hydra's.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._parser = OverridesParser.create(config_loader=loader)
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """As Hydra's own.

        Args:
            master_config: of the sweep.
            sweep_overrides: of one run.

        Returns:
            its configuration, Hydra's own part included, which the caller may change.
        """
        overrides = self._parser.parse_overrides(sweep_overrides)
        plain = [override for override in overrides if _is_plain(override)]
        kind = tuple(override.key_or_group if override in plain else str(override.input_line) for override in overrides)
        known = self._composed.get(kind)
        if known is None or not all(_is_leaf(known, override.key_or_group) for override in plain):
            config = self._loader.load_sweep_config(master_config, sweep_overrides)
            self._composed[kind] = copy.deepcopy(config)
            return config
        config = copy.deepcopy(known)
        for override in plain:  # of one key that is set twice the last one counts
            OmegaConf.update(config, override.key_or_group, override.value())
        _set_overrides(config.hydra, [override for override in overrides if not override.is_hydra_override()])
        OmegaConf.copy_cache(from_config=master_config, to_config=config)  # as Hydra: of resolvers, such as `now`
        return config


def _is_plain(override: Override) -> bool:
    """Whether it sets a key that the files have to a value by which nothing is chosen."""
    value = override.value()
    return (
        override.type == OverrideType.CHANGE
        and override.package is None
        and not override.is_hydra_override()
        and override.key_or_group not in GROUPS
        and isinstance(value, None | bool | int | float | str)
        and "${" not in str(value)
    )


def _is_leaf(config: DictConfig, key: str) -> bool:
    """Whether a key is there and holds no further ones, as that of a group of the user's own would."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig) or name not in node:
        return False
    return OmegaConf.is_interpolation(node, name) or not OmegaConf.is_config(node[name])


def _set_overrides(hydra: DictConfig, overrides: Sequence[Override]) -> None:
    """What Hydra writes down of a run's overrides."""
    hydra.overrides.task = [override.input_line for override in overrides]
    names = hydra.job.config.override_dirname
    hydra.job.override_dirname = get_overrides_dirname(
        list(overrides), list(names.exclude_keys), names.item_sep, names.kv_sep
    )
