"""What the settings of MovieLens must fulfil together. Imports no torch, so that it can be asked before that."""

from collections.abc import Mapping
from typing import Any

from trilab.errors import ConfigError

#: Items that each test item is ranked among in the files of the NCF paper.
PUBLISHED_NEGATIVES = 99


def check_movielens(values: Mapping[str, Any]) -> None:
    """Raises ConfigError where `MovieLens` could not work as configured.

    Args:
        values: its constructor's arguments by name.
    """
    negatives, cutoffs, side = values["eval_negatives"], list(values["cutoffs"]), list(values["side_features"])
    if values["split"] == "ncf":
        if values["dataset"] != "1m":
            raise ConfigError(
                f"data.split=ncf: the NCF paper's split is of MovieLens 1M, and data.dataset={values['dataset']}. "
                "Choose data.split=latest, or data.dataset=1m."
            )
        if negatives != PUBLISHED_NEGATIVES:
            raise ConfigError(
                f"data.eval_negatives={negatives}: the NCF paper's split comes with {PUBLISHED_NEGATIVES} negatives of "
                f"each test item. Choose {PUBLISHED_NEGATIVES}, or data.split=latest."
            )
    twice = next((name for name in side if side.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"data.side_features={side}: {twice} stands there twice.")
    if not cutoffs or len(set(cutoffs)) < len(cutoffs):
        raise ConfigError(f"data.cutoffs={cutoffs}: expected one K at least, and none twice, as in [5, 10].")
    if not values["full_ranking"] and max(cutoffs) > negatives:
        raise ConfigError(
            f"data.cutoffs={cutoffs}: with data.eval_negatives={negatives} an item is ranked among {negatives + 1}, so "
            f"that every hit rate beyond {negatives} is 1. Choose at most {negatives}, or data.full_ranking=true."
        )
