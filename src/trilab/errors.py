"""The one kind of exception whose text is written for the user: printed as a single line, without a traceback."""

import difflib
import sys
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right: says what was wrong, what is allowed, and the nearest match if there is one."""


class ConfigError(UserError):
    """A configuration that cannot be run. Raised before torch is imported and before anything is written."""


#: What other frameworks call it.
_SYNONYMS = {
    **dict.fromkeys(("gpu", "nvidia", "rocm"), "cuda"),
    **dict.fromkeys(("metal", "apple"), "mps"),
    **dict.fromkeys(("32", "32-true", "float32", "full", "single"), "fp32"),
    **dict.fromkeys(("16", "fp16", "float16", "half", "amp", "mixed"), "16-mixed"),
    **dict.fromkeys(("bf16", "bfloat16"), "bf16-mixed"),
}


def say(message: str) -> None:
    """One line on the standard error stream."""
    sys.stderr.write(f"trilab: {' '.join(message.split())}\n")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest of the allowed names, or an empty string where nothing is close."""
    options = [str(option) for option in allowed]
    if _SYNONYMS.get(name.lower()) in options:
        return f" Did you mean '{_SYNONYMS[name.lower()]}'?"
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    if not close:  # a bare option name for one that stands in a folder: `dqn` for `rl/dqn`
        tails = {option.lower().rsplit("/", 1)[-1]: option for option in options}
        close = [tails[tail] for tail in difflib.get_close_matches(name.lower().rsplit("/", 1)[-1], tails, n=1)]
        return f" Did you mean '{close[0]}'?" if close else ""
    return f" Did you mean '{by_lower[close[0]]}'?"
