"""Shell completion: Hydra's, for a command line whose first word is a command of trilab's.

Hydra completes `group=` only with options that stand directly in the group's folder; trilab's stand in a folder per
field, so options are completed here, and so are the names of studies; keys and values are completed by Hydra.
"""

import os
import sys

import hydra

from trilab.config.catalog import GROUPS, catalog
from trilab.config.compose import CONFIG_MODULE, CONFIG_NAME

#: Where the functions that Hydra installs in a shell put the line typed so far.
_LINE = "COMP_LINE"


def complete(arguments: list[str], commands: list[str]) -> int:
    """Answers `-sc install=SHELL`, `-sc uninstall=SHELL` and the queries that the installed function makes."""
    if _LINE not in os.environ or not any(argument.startswith("query=") for argument in arguments):
        _hydra([argument for argument in arguments if argument not in commands])
        return 0
    line = os.environ[_LINE]
    words = line.split()
    word = "" if line.endswith(" ") else words[-1]
    if len(words) <= 1 or (len(words) == 2 and word):
        print("\n".join(command for command in commands if command.startswith(word if len(words) == 2 else "")))
        return 0
    if words[1] == "study" and "=" not in word:
        from trilab.reports.studies import folders

        print("\n".join(name for name in folders() if name.startswith(word)))
        return 0
    group, equals, _ = word.lstrip("+~").partition("=")
    if equals and group in GROUPS:
        matches = [f"{group}={option.name}" for option in catalog(group)]
        print("\n".join(match for match in matches if match.startswith(word)))
        return 0
    os.environ[_LINE] = line.replace(f" {words[1]}", "", 1)
    _hydra([argument for argument in arguments if argument not in commands])
    return 0


def _hydra(arguments: list[str]) -> None:
    sys.argv = ["trilab", *arguments]
    hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME)(_never)()


def _never(config: object) -> None:
    raise AssertionError("completion runs no job")
