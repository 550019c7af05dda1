"""What must never be written anywhere: passwords and tokens in URIs, in overrides and in the environment."""

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

_HIDDEN = "***"
_WORD = r"(?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?)"
#: `//user:password@host`. The last @ before a slash ends it, for a password may hold one.
_USER_INFO = re.compile(r"(?<=//)[^/\s'\"]*@")
#: `...password=x`, in a query, an override or a command; numbers and the like are no secrets (`pad_token=3`).
_ASSIGNED = re.compile(
    rf"(?i)((?<![a-z]){_WORD}['\"]?\s*=\s*['\"]?)(?!(?:[\d.]+|true|false|null|none)\b)[^\s&'\",;\])}}]+"
)
_KEY = re.compile(rf"(?i)(?:^|[._-]){_WORD}$")
_VARIABLE = re.compile(rf"(?i){_WORD}")
_LOCATION = re.compile(r"(?i)_(?:file|path|dir|url|uri)$")
#: A shorter value of an environment variable is found in too many texts where it means nothing.
_SHORTEST = 6


def redacted(text: str) -> str:
    """A text with `***` in place of each secret in it: users and passwords of URIs, values named like a password, and
    those of environment variables named so."""
    return _redacted(text, _of_environment())


def without_secrets(value: Any) -> Any:
    """The same for a whole configuration: every text in it, and what stands under a key named like a password."""
    return _without(value, _of_environment())


def _without(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _HIDDEN if isinstance(item, str) and item and _KEY.search(str(key)) else _without(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without(item, secrets) for item in value]
    return _redacted(value, secrets) if isinstance(value, str) else value


def _redacted(text: str, secrets: Sequence[str]) -> str:
    text = _ASSIGNED.sub(rf"\1{_HIDDEN}", _USER_INFO.sub(f"{_HIDDEN}@", text))
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    return text


def _of_environment() -> list[str]:
    return [
        value
        for name, value in os.environ.items()
        if _names_a_secret(name) and len(value) >= _SHORTEST and not value.startswith(("/", "~"))
    ]


@cache
def _names_a_secret(variable: str) -> bool:
    return bool(_VARIABLE.search(variable)) and not _LOCATION.search(variable)
