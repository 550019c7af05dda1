"""Hydra's composition errors in one line: what was wrong, what is allowed, the nearest match."""

from collections.abc import Iterable, Sequence

from hydra import compose as hydra_compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from trilab.config.check import unknown_key
from trilab.errors import ConfigError, nearest


def diagnose(error: Exception, overrides: Sequence[str], always: Sequence[str] = ()) -> ConfigError:
    """Finds the override that Hydra stumbled over. Called while Hydra is initialised.

    Args:
        error: what Hydra raised.
        overrides: the user's overrides.
        always: overrides of trilab's own, kept in every attempt.
    """
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(config_loader=loader)
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException:
            return _unreadable(text)
    groups = all_groups(loader)
    for override in parsed:
        problem = _wrong_option(loader, override, groups)
        if problem:
            return ConfigError(problem)
    base = _compose_without_values(parsed, groups, always)
    if base is not None:
        for override in parsed:
            if override.key_or_group not in groups and (unknown := _unknown_key(override, base, groups)):
                return unknown
    return ConfigError(" ".join(str(error).split()))


def all_groups(loader: ConfigLoader, parent: str = "") -> set[str]:
    """Every configuration group that a user can set, nested ones included (`hydra/launcher`)."""
    found: set[str] = set()
    for name in loader.list_groups(parent):
        path = f"{parent}/{name}" if parent else name
        if path not in {"hydra/env", "__pycache__"}:
            found |= {path, *all_groups(loader, path)}
    return found


def options(loader: ConfigLoader, group: str) -> list[str]:
    """Every option of a group as it is written on the command line, those in its folders included (`rl/dqn`)."""
    names = loader.get_group_options(group, ObjectType.CONFIG)
    folders = [folder for folder in loader.get_group_options(group, ObjectType.GROUP) if folder != "__pycache__"]
    nested = [f"{folder}/{option}" for folder in folders for option in options(loader, f"{group}/{folder}")]
    return sorted(set(names) | set(nested))


def _unreadable(text: str) -> ConfigError:
    if "=" not in text and not text.startswith("~"):
        return ConfigError(f"'{text}' is not an override. Write key=value, as in seed=2 or precision=16-mixed.")
    return ConfigError(f"'{text}' cannot be read. Quote a value with special characters: 'key=\"a: b\"'.")


def _wrong_option(loader: ConfigLoader, override: Override, groups: set[str]) -> str | None:
    group = override.key_or_group
    if group not in groups or override.is_delete():
        return None
    allowed = options(loader, group)
    for value in _values(override):
        if value not in allowed:
            return f"{group}={value}: no such option.{nearest(value, allowed)} Allowed: {', '.join(allowed)}."
    return None


def _values(override: Override) -> Iterable[str]:
    value = override.value()
    if value is None:
        return ["null"]
    return [str(item) for item in value] if isinstance(value, list | ListConfig) else [str(value)]


def _compose_without_values(parsed: Sequence[Override], groups: set[str], always: Sequence[str]) -> DictConfig | None:
    chosen = [str(override.input_line) for override in parsed if override.key_or_group in groups]
    try:
        return hydra_compose("train", [*always, *chosen])
    except HydraException:
        return None  # the groups themselves do not compose; Hydra's own message has the reason


def _unknown_key(override: Override, base: DictConfig, groups: set[str]) -> ConfigError | None:
    if override.is_add() or override.is_force_add():
        return None
    node: DictConfig | ListConfig = base
    path: list[str] = []
    for part in override.key_or_group.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            if not path:
                names = {str(key) for key in base} | {group for group in groups if "/" not in group}
                return unknown_key("", part, names - {"hydra"})
            names = {str(key) for key in node} if isinstance(node, DictConfig) else set()
            return unknown_key(".".join(path), part, names - {"_target_", "_partial_"})
        path.append(part)
        node = OmegaConf.select(base, ".".join(path))
    return None
