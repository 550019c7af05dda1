"""Hydra's composition errors in one line: what was wrong, what is allowed, the nearest match."""

from collections.abc import Iterable, Sequence

from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig

from trilab.config.check import unknown_key
from trilab.errors import ConfigError, nearest


class Options:
    """The groups and options there are, a user's own folder included. Needs Hydra to be initialised.

    Args:
        search: the override of Hydra's search path that names that folder, if there is one.
    """

    def __init__(self, search: Sequence[str] = ()) -> None:
        self.search = list(search)
        self.loader = GlobalHydra.instance().config_loader()
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.groups = self._groups("")

    def of(self, group: str) -> list[str]:
        """Every option as it is written on the command line, those in the group's folders included (`rl/dqn`)."""
        nested = [f"{child}/{option}" for child in self._children(group) for option in self.of(f"{group}/{child}")]
        return sorted({*self._names(group, ObjectType.CONFIG), *nested})

    def _groups(self, parent: str) -> set[str]:
        paths = {f"{parent}/{name}" if parent else name for name in self._children(parent)} - {"hydra/env"}
        return paths.union(*(self._groups(path) for path in paths))

    def _children(self, group: str) -> list[str]:
        return [name for name in self._names(group, ObjectType.GROUP) if name != "__pycache__"]

    def _names(self, group: str, kind: ObjectType) -> list[str]:
        # With a search path Hydra reads the primary configuration anew at each call; without one it need not.
        search = ("train", self.search) if self.search else ()
        return self.loader.get_group_options(group, kind, *search)


def diagnose(error: Exception, overrides: Sequence[str], search: Sequence[str] = ()) -> ConfigError:
    """Finds the override that Hydra stumbled over. Called while Hydra is initialised.

    Args:
        error: what Hydra raised.
        overrides: the user's overrides.
        search: see `Options`.
    """
    known = Options(search)
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed.append(known.parser.parse_override(text))
        except HydraException:
            return _unreadable(text)
    for override in parsed:
        problem = _wrong_option(known, override)
        if problem:
            return ConfigError(problem)
    base = _compose_without_values(parsed, known)
    if base is not None:
        for override in parsed:
            if override.key_or_group not in known.groups and (unknown := _unknown_key(override, base, known.groups)):
                return unknown
    reason, _, _ = str(error).partition("Config search path")  # a list of internal addresses
    return ConfigError(" ".join(reason.split()))


def _unreadable(text: str) -> ConfigError:
    if "=" not in text and not text.startswith("~"):
        return ConfigError(f"'{text}' is not an override. Write key=value, as in seed=2 or precision=16-mixed.")
    return ConfigError(f"'{text}' cannot be read. Quote a value with special characters: 'key=\"a: b\"'.")


def _wrong_option(known: Options, override: Override) -> str | None:
    group = override.key_or_group
    if group not in known.groups or override.is_delete():
        return None
    allowed = known.of(group)
    for value in _values(override):
        if value not in allowed:
            return f"{group}={value}: no such option.{nearest(value, allowed)} Allowed: {', '.join(allowed)}."
    return None


def _values(override: Override) -> Iterable[str]:
    value = override.value()
    if value is None:
        return ["null"]
    return [str(item) for item in value] if isinstance(value, list | ListConfig) else [str(value)]


def _compose_without_values(parsed: Sequence[Override], known: Options) -> DictConfig | None:
    chosen = [str(override.input_line) for override in parsed if override.key_or_group in known.groups]
    try:
        return hydra_compose("train", [*known.search, *chosen], return_hydra_config=True)
    except HydraException:
        return None  # the groups themselves do not compose; Hydra's own message has the reason


def _unknown_key(override: Override, base: DictConfig, groups: set[str]) -> ConfigError | None:
    if override.is_add() or override.is_force_add():
        return None
    node: object = base
    path: list[str] = []
    for part in override.key_or_group.split("."):
        if not isinstance(node, DictConfig) or part not in set(node.keys()):
            if not path:
                names = {str(key) for key in base} | {group for group in groups if "/" not in group}
                return unknown_key("", part, names - {"hydra"})
            names = {str(key) for key in node} if isinstance(node, DictConfig) else set()
            return unknown_key(".".join(path), part, names - {"_target_", "_partial_"})
        path.append(part)
        node = node._get_node(part)  # not its value: an interpolation may need the run that is not there yet
    return None
