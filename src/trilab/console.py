"""Tables on the standard output, for a terminal of any width and for files and pipes."""

import shutil
import sys
from pathlib import Path

from rich.console import Console, RenderableType

#: A file or a pipe has no width of its own to fold lines at.
_WIDE = 200


def program() -> str:
    """How this user can call trilab: by name, or by path where its environment is not the active one (`make train`)."""
    if shutil.which("trilab"):
        return "trilab"
    script = Path(sys.executable).with_name("trilab")
    if not script.is_file():
        return "python -m trilab"
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def show(*renderables: RenderableType) -> None:
    """Prints tables and lines: as wide as the terminal; where there is none, in whole lines without trailing blanks."""
    out = Console()
    if out.is_terminal:
        out.print(*renderables, sep="\n")
        return
    out = Console(width=_WIDE)
    with out.capture() as captured:
        out.print(*renderables, sep="\n")
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
