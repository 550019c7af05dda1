"""Tables on the standard output, for a terminal of any width and for files and pipes."""

from rich.console import Console

#: A file or a pipe has no width of its own to fold lines at.
_WIDE = 200


def console() -> Console:
    """A console as wide as the terminal, or wide enough for whole lines where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDE)
