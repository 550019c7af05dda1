"""What a recommender's settings must fulfil together. Found by `trilab.config.check`, before torch is imported."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trilab.errors import ConfigError, nearest

#: Networks that score a user and an item.
_OF_USER_AND_ITEM = {
    "trilab.models.recsys.mf.MatrixFactorization": "mf",
    "trilab.models.recsys.gmf.GMF": "gmf",
    "trilab.models.recsys.ncf_mlp.NCFMLP": "ncf_mlp",
    "trilab.models.recsys.neumf.NeuMF": "neumf",
}
_WIDE_DEEP = "trilab.models.recsys.wide_deep.WideDeep"
#: Data that have neither, and data in which the user says which columns they are.
_SYNTHETIC = "trilab.data.recsys.synthetic.SyntheticClicks"
_CLICK_TABLE = "trilab.data.recsys.tables.ClickTable"


def tower_sizes(factors: int, layers: int) -> list[int]:
    """Sizes of an NCF tower, the concatenated embeddings first: [factors 2^layers, ..., 2 factors, factors].

    Raises:
        ConfigError: they could not be halved between the user and the item.
    """
    if layers == 0 and factors % 2:
        raise ConfigError(
            f"model.network.factors={factors} is odd, and with model.network.layers=0 it is the size of the user's and "
            "the item's embeddings together. Choose an even one."
        )
    return [factors * 2**power for power in range(layers, -1, -1)]


def check_tower(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where the tower of an `NCFMLP` or a `NeuMF` could not be built.

    Args:
        values: its constructor's arguments by name.
    """
    if "factors" in values and "layers" in values:
        tower_sizes(values["factors"], values["layers"])


def check_crosses(crosses: Sequence[Sequence[str]]) -> None:
    """Raises ConfigError where `crosses` are not pairs of two names each, each pair once."""
    seen = set()
    for pair in crosses:
        shown = f"model.network.crosses: [{', '.join(map(str, pair))}]"
        if len(pair) != 2 or pair[0] == pair[1]:
            raise ConfigError(f"{shown} is no pair. Expected two fields of the data, as in [[user, genre]].")
        if frozenset(pair) in seen:
            raise ConfigError(f"{shown} stands there twice.")
        seen.add(frozenset(pair))


def check_wide_deep(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where `WideDeep` could not work as configured."""
    check_crosses(values.get("crosses", ()))


def check_recommender(values: Mapping[str, Any]) -> None:
    """The same of `Recommender`."""
    network = values.get("network")
    if not isinstance(network, Mapping) or "_target_" not in network:
        raise ConfigError(
            f"model.network={'null' if network is None else network}: expected a network to build, with a _target_. "
            "Choose one with model=<option>, as in model=recsys/deepfm."
        )
    if network.get("_partial_") is not True:
        raise ConfigError("model.network._partial_: expected true, for the fields come from the data.")


def check_recommender_on(values: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """The same of the model and the data together.

    Args:
        values: the model's arguments by name.
        data: the data's.
    """
    network = values["network"]
    if model := _OF_USER_AND_ITEM.get(network["_target_"]):
        _check_users(model, data)
    if network["_target_"] == _WIDE_DEEP and data["_target_"] == _CLICK_TABLE:
        _check_names(network.get("crosses", ()), data)


def _check_users(model: str, data: Mapping[str, Any]) -> None:
    if data["_target_"] == _SYNTHETIC:
        raise ConfigError(
            f"model=recsys/{model} scores a user and an item, and data=recsys/synthetic has neither. Choose data with "
            "both, such as data=recsys/movielens_100k, or a model of any fields, such as model=recsys/fm."
        )
    missing = [name for name in ("user", "item") if data["_target_"] == _CLICK_TABLE and data.get(name) is None]
    if missing:
        raise ConfigError(
            f"data.{missing[0]}=null: model=recsys/{model} scores a user and an item. Name the column, one of "
            f"{', '.join(data['categorical'])}, or choose a model of any fields, such as model=recsys/fm."
        )


def _check_names(crosses: Sequence[Sequence[str]], data: Mapping[str, Any]) -> None:
    fields = [*data["categorical"], *(data["dense"] if data.get("dense_transform") == "bucketize" else [])]
    for name in (name for pair in crosses for name in pair):
        if name not in fields:
            raise ConfigError(
                f"model.network.crosses: the data have no field {name}.{nearest(name, fields)} "
                f"Their fields are {', '.join(fields)}."
            )


def check_pretrained(values: Mapping[str, Any]) -> None:
    """The same of `NeuMFRecommender`."""
    check_recommender(values)
    given = {name: values.get(f"pretrained_{name}") for name in ("gmf", "mlp")}
    for name, value in given.items():
        if value is None and any(given.values()):
            raise ConfigError(f"model.pretrained_{name}=null: both parts are pretrained or neither. Name its run too.")
        if value is not None and not (Path(value).is_file() or re.fullmatch("[0-9a-f]{32}", value)):
            raise ConfigError(
                f"model.pretrained_{name}={value}: expected the id of a run, 32 hexadecimal digits, or the path of a "
                "checkpoint, and there is no such file."
            )


#: By the name of the class whose arguments are checked.
CHECKS = {
    "NCFMLP": check_tower,
    "NeuMF": check_tower,
    "NeuMFRecommender": check_pretrained,
    "Recommender": check_recommender,
    "WideDeep": check_wide_deep,
}
#: The same of a model's class, with the data's arguments beside its own.
CHECKS_WITH_DATA = {"Recommender": check_recommender_on, "NeuMFRecommender": check_recommender_on}
