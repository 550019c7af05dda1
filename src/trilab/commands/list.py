"""trilab list: every option of every group, with a line each

usage: trilab list [GROUP ...] [--config-dir DIR]

groups: experiment, model, data, precision, accelerator, optimizer, scheduler, trainer, callbacks, tracking, paths,
hydra/launcher and hydra/sweeper (where the runs of a sweep go, and what chooses them).
Without a group: experiments, models, data sets, precisions and accelerators. --config-dir adds a folder of your own.
"""

from pathlib import Path

from rich.table import Table

from trilab.config.catalog import GROUPS, SWEEP_GROUPS, catalog
from trilab.console import show
from trilab.errors import ConfigError, nearest

_SHOWN = GROUPS[:5]
_ALL = (*GROUPS, *SWEEP_GROUPS)


def main(argv: list[str]) -> int:
    """Prints the options."""
    groups, config_dir = _arguments(argv)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for group in groups:
        table.add_row(f"[bold]{group}[/bold]", "")
        for option in catalog(group, config_dir):
            table.add_row(f"  {group}={option.name}", option.description)
    show(table)
    return 0


def _arguments(argv: list[str]) -> tuple[tuple[str, ...], Path | None]:
    groups: list[str] = []
    config_dir: Path | None = None
    arguments = iter(argv)
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            config_dir = Path(value or next(arguments, ""))
            if not config_dir.is_dir():
                raise ConfigError(f"--config-dir {config_dir}: no such folder.")
        elif argument in _ALL:
            groups.append(argument)
        else:
            raise ConfigError(f"list: no group '{argument}'.{nearest(argument, _ALL)} Allowed: {', '.join(_ALL)}.")
    return tuple(groups) or _SHOWN, config_dir
