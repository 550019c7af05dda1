"""Checks a composed configuration against the signatures of everything it names. Imports neither torch nor MLflow."""

import importlib
import json
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, PydanticUserError, StringConstraints, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from trilab.config.devices import check_devices
from trilab.config.signatures import UnknownTarget, find_module, has_method, signature
from trilab.errors import ConfigError, nearest
from trilab.ranges import NonNegativeInt

#: The keys of conf/train.yaml that are not groups.
_ROOT: dict[str, Any] = {"seed": NonNegativeInt, "fit": bool, "test": bool, "resume": str | None}
_GOAL: dict[str, Any] = {
    "metric": str,
    "mode": Literal["min", "max"],
    "threshold": float | None,
    "source": str | None,
}
_MODE = Literal["min", "max"]
_SWEEP: dict[str, Any] = {
    "name": Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")] | None,
    "metric": str | list[str] | None,
    "mode": _MODE | list[_MODE | None] | None,
    "compare": bool,
}
_PATHS: dict[str, Any] = {"data": str, "outputs": str}
_GROUPS = ("data", "model", "optimizer", "scheduler", "trainer", "callbacks", "accelerator", "precision", "tracking")

#: Keys of a group that are no arguments of its target.
_OWN: dict[str, dict[str, Any]] = {"trainer": {"seeds": list[NonNegativeInt] | None}}

#: Arguments that train.py supplies; a configuration may not.
SUPPLIED = frozenset({"spec", "optimizer", "schedule", "goal"})
#: The same of the Trainer, and where a user sets it instead.
_SUPPLIED_TO_TRAINER = {
    "accelerator": "the group accelerator=",
    "precision": "the group precision=",
    "plugins": "the group precision=",
    "logger": "tracking.*",
    "callbacks": "the group callbacks=",
    "enable_checkpointing": "callbacks.checkpoint",
    "enable_progress_bar": "callbacks.progress",
    "default_root_dir": "paths.outputs",
}
_HYDRA_KEYS = frozenset({"_target_", "_partial_", "_recursive_", "_convert_", "_args_"})


def check(config: DictConfig) -> None:
    """Raises ConfigError for the first unknown key, wrong type or value out of range, at any depth."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        first = missing[0].partition(".")[0]
        raise ConfigError(
            f"{', '.join(missing)}: without a default, for only you can know. Set {missing[0]}=..., "
            f"or choose another option of {first}."
        )
    try:
        OmegaConf.resolve(config := config.copy())
        values: Any = OmegaConf.to_container(config, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from None
    _keys("", values, {*_ROOT, "goal", "paths", "sweep", *_GROUPS})
    for name, annotation in _ROOT.items():
        _value(name, values.get(name), annotation)
    for group, schema in (("goal", _GOAL), ("paths", _PATHS), ("sweep", _SWEEP)):
        _keys(group, values[group], set(schema))
        for name, annotation in schema.items():
            _value(f"{group}.{name}", values[group].get(name), annotation)
    for group in _GROUPS:
        _node(group, values[group], required=group != "callbacks")
    if not (values["fit"] or values["test"]):
        raise ConfigError("fit=false test=false: nothing to do. Set one of them to true.")
    if values.get("resume") is not None and not values["fit"]:
        raise ConfigError("resume=... goes on with a training, and fit=false leaves it out.")
    _seeds(values)
    check_devices(values)
    _with_data(values)


def check_part(path: str, node: dict[str, Any]) -> None:
    """Checks a part that stands outside the groups: Hydra's own."""
    _node(path, node)


def _seeds(values: dict[str, Any]) -> None:
    """Checks `trainer.seeds`."""
    seeds = values["trainer"].get("seeds")
    if seeds is None:
        return
    if not seeds:
        raise ConfigError("trainer.seeds=[]: expected one seed at least, as in trainer.seeds=[0,1,2], or null.")
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise ConfigError(f"trainer.seeds={seeds}: {twice} stands there twice, and would be the same agent.")
    for group in ("model", "data"):
        target = values[group]["_target_"]
        if len(seeds) > 1 and not has_method(target, "joined"):
            raise ConfigError(
                f"trainer.seeds trains several agents as one batch, which only models and data of rl can, and not "
                f"{target}. For a run after the other: -m seed={','.join(map(str, seeds))}."
            )


def _node(path: str, value: Any, required: bool = False) -> None:
    """Checks a part of the configuration: something to build, a mapping of such parts, or plain values."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            _node(f"{path}[{index}]", item)
    elif isinstance(value, dict) and "_target_" in value:
        _target(path, value)
    elif isinstance(value, dict):
        if required:
            raise ConfigError(f"{path}: no _target_, so there is nothing to build. Choose one with {path}=<option>.")
        for key, item in value.items():
            _node(f"{path}.{key}", item)
    elif required:
        raise ConfigError(f"{path}={_show(value)}: expected an option of the group. See trilab list {path}.")


def _target(path: str, node: dict[str, Any]) -> None:
    target = str(node["_target_"])
    try:
        sig = signature(target)
    except UnknownTarget as error:
        hint = nearest(error.missing.rpartition(".")[2], error.siblings)
        raise ConfigError(f"{path}._target_={target}: there is no {error.missing}.{hint}") from None
    supplied = SUPPLIED | (set(_SUPPLIED_TO_TRAINER) if path == "trainer" else frozenset())
    if node.get("_partial_"):  # what it needs and cannot do without comes from the program: an optimiser's params
        supplied |= set(sig.parameters) - sig.defaults - set(node)
    own = _OWN.get(path, {})
    allowed = set(sig.parameters) - supplied | set(own)
    given = {key: value for key, value in node.items() if key not in _HYDRA_KEYS}
    if set(given) & set(sig.parameters) & supplied:
        key = min(set(given) & supplied)
        instead = _SUPPLIED_TO_TRAINER.get(key, f"the group {key}=")
        raise ConfigError(f"{path}.{key}: set by trilab itself; use {instead} instead.")
    if not sig.accepts_any_key:
        _keys(path, given, allowed)
    for key, value in given.items():
        if key in own:
            _value(f"{path}.{key}", value, own[key])
        elif key in sig.parameters and not _is_nested(value):
            _value(f"{path}.{key}", value, sig.parameters[key])
        else:
            _node(f"{path}.{key}", value)
    rule = _rules(target, "CHECKS")
    if rule is not None:
        rule(given)


def _with_data(values: dict[str, Any]) -> None:
    """Checks what the model's values must fulfil together with the data's."""
    rule = _rules(values["model"]["_target_"], "CHECKS_WITH_DATA")
    if rule is not None:
        rule(values["model"], values["data"])


def _rules(target: str, table: str) -> Callable[..., None] | None:
    """What a target's values must fulfil together: of the module `checks` beside its own, where there is one."""
    module, _, name = target.rpartition(".")
    beside = f"{module.rpartition('.')[0]}.checks"
    if find_module(beside) is None:
        return None
    rule: Callable[..., None] | None = getattr(importlib.import_module(beside), table, {}).get(name)
    return rule


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(_is_nested(item) for item in value.values())
    return isinstance(value, list) and any(_is_nested(item) for item in value)


def _keys(path: str, given: Mapping[str, Any], allowed: set[str]) -> None:
    for key in given:
        if key not in allowed:
            raise unknown_key(path, str(key), allowed)


def unknown_key(path: str, key: str, allowed: set[str]) -> ConfigError:
    """The error for a key that a part of the configuration does not have."""
    where = f" in {path}" if path else ""
    full = f"{path}.{key}" if path else key
    if not allowed:
        return ConfigError(f"{full}: no such key. {path} is empty here; +{full}=... adds to it.")
    return ConfigError(
        f"{full}: no such key.{nearest(key, sorted(allowed))} Allowed{where}: {', '.join(sorted(allowed))}."
    )


def _value(path: str, value: Any, annotation: Any) -> None:
    adapter = _adapter(annotation)
    if adapter is None:
        return
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        choices = [str(choice) for choice in _choices(annotation)]
        hint = nearest(str(value), choices) if isinstance(value, str) else ""
        raise ConfigError(f"{path}={_show(value)}: expected {describe(annotation)}.{hint}") from None


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=False))
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None  # a type that only its own library can judge


def _show(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
_SIGNS = {Gt: ("gt", "> {}"), Ge: ("ge", ">= {}"), Lt: ("lt", "< {}"), Le: ("le", "<= {}")}


def describe(annotation: Any) -> str:
    """An annotation in words: `a number >= 0 and <= 1`, `one of mse, huber`, `a whole number > 0, or null`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [sign.format(getattr(limit, attribute)) for limit in arguments[1:]
                  for kind, (attribute, sign) in _SIGNS.items() if isinstance(limit, kind)]  # fmt: skip
        limits += [f"that matches {limit.pattern}" for limit in arguments[1:] if isinstance(limit, StringConstraints)]
        return f"{describe(arguments[0])} {' and '.join(limits)}".strip()
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(_show(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        *first, last = [describe(argument) for argument in arguments]
        return f"{', '.join(first)} or {last}"
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: {', '.join(describe(argument) for argument in arguments)}"
    if origin is dict or (origin is not None and issubclass(origin, Mapping)):
        return "a mapping"
    if origin is not None:
        return f"a list of {describe(arguments[0])} each" if arguments else "a list"
    return _NAMES.get(annotation, str(getattr(annotation, "__name__", annotation)))


def _choices(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for argument in get_args(annotation) if not isinstance(argument, Gt | Ge | Lt | Le)
            for choice in _choices(argument)]  # fmt: skip
