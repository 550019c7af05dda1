"""What a run was made with: installed packages, and the commit and state of the code."""

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path


@cache
def environment() -> str:
    """Python, operating system and every installed package, in the format of pip's requirement files."""
    packages = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
    pinned = [f"{name}=={packages[name]}" for name in sorted(packages, key=str.lower)]
    return "\n".join([f"# python {platform.python_version()}", f"# {platform.platform()}", *pinned, ""])


def git() -> tuple[dict[str, str], str]:
    """Tags with the commit of the code, and its difference from that commit (empty where there is none).

    The code is the repository of the current folder, where a user keeps an experiment; else the one that trilab itself
    runs from. No tags outside a repository.
    """
    for folder in (Path.cwd(), Path(__file__).parent):
        commit = _git(folder, "rev-parse", "HEAD")
        if commit:
            diff = _git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff") or ""
            tags = {"git.commit": commit.strip(), "git.dirty": str(bool(diff)).lower()}
            return {**tags, "mlflow.source.git.commit": commit.strip()}, diff
    return {}, ""


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace", timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
