"""What the data's settings must fulfil together. Found by `trilab.config.check`, before torch is imported."""

from collections.abc import Mapping
from typing import Any

from trilab.data.recsys.movielens_checks import check_movielens
from trilab.errors import ConfigError, nearest


def check_click_table(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where `ClickTable` could not work as configured.

    Args:
        values: its constructor's arguments by name.
    """
    if not values["train_path"]:
        raise ConfigError("data.train_path is empty. Name a file, several, or a pattern: data.train_path=clicks.csv.")
    _check_roles(values)
    if values["format"] == "csv":
        _check_csv(values)
    _check_parts(values)


def _check_roles(values: Mapping[str, Any]) -> None:
    """Which columns are what."""
    roles = [("label", [values["label"]]), ("dense", values["dense"]), ("categorical", values["categorical"])]
    seen: dict[str, str] = {}
    for role, names in roles:
        for name in names:
            if name in seen:
                raise ConfigError(f"data.{role}: column '{name}' is in data.{seen[name]} already.")
            seen[name] = role
    if not values["categorical"] and not (values["dense"] and values["dense_transform"] == "bucketize"):
        raise ConfigError(
            "data.categorical=[]: expected one column at least, as in data.categorical=[user,item]; or "
            "data.dense_transform=bucketize, which makes categorical fields of data.dense."
        )
    for role in ("user", "item", "group"):
        name = values[role]
        if name is not None and name not in values["categorical"]:
            raise ConfigError(
                f"data.{role}={name} is not in data.categorical.{nearest(name, values['categorical'])} "
                f"Allowed: null, {', '.join(values['categorical'])}."
            )
    if values["dense_transform"] == "bucketize" and values["buckets"] < 2:
        raise ConfigError(f"data.buckets={values['buckets']}: expected 2 at least.")


def _check_csv(values: Mapping[str, Any]) -> None:
    for knob, longest in (("delimiter", 1), ("quote", 1)):
        if len(values[knob]) > longest or (knob == "delimiter" and not values[knob]):
            raise ConfigError(f"data.{knob}={values[knob]!r}: expected one character" + (
                "." if knob == "delimiter" else ", or '' for none."))  # fmt: skip
    columns = values["columns"]
    if values["header"] and columns is not None:
        raise ConfigError("data.columns names what data.header=true says the file names itself. Set one of the two.")
    if values["header"]:
        return
    if not columns:
        raise ConfigError("data.header=false: data.columns has to name the columns of the file, in their order.")
    for role in ("label", "dense", "categorical"):
        for name in [values[role]] if role == "label" else values[role]:
            if name not in columns:
                raise ConfigError(
                    f"data.{role}: there is no '{name}' in data.columns.{nearest(name, columns)} "
                    f"Allowed: {', '.join(columns)}."
                )
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"data.columns: '{twice}' stands there twice.")


def _check_parts(values: Mapping[str, Any]) -> None:
    """Whether each part has rows."""
    split = {part: values[f"{part}_fraction"] for part in ("val", "test") if values[f"{part}_path"] is None}
    for part, fraction in split.items():
        if not fraction:
            raise ConfigError(f"data.{part}_fraction=0 leaves no rows for {part}. Set it, or data.{part}_path.")
    if sum(split.values()) >= 1:
        shares = " + ".join(f"data.{part}_fraction={fraction:g}" for part, fraction in split.items())
        raise ConfigError(f"{shares} leaves nothing to train on: expected less than 1 in all.")


#: By the name of the class whose arguments are checked.
CHECKS = {"ClickTable": check_click_table, "MovieLens": check_movielens}
