"""What a launcher's own settings must fulfil, and what it needs here. Checked before the first run of a sweep."""

from collections.abc import Mapping
from importlib.util import find_spec
from shutil import which
from typing import Any

from trilab.config.check import check_part
from trilab.errors import ConfigError

#: Where trilab's launchers are, and the one of Hydra's that runs jobs in the process itself.
_PLUGINS = "hydra_plugins.trilab_launchers."
_BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_NAMES = ("basic", "joblib", "submitit_local", "slurm", "ray")
#: By the launcher's class: the package that it needs, and how one gets it.
_NEEDS = {
    "Joblib": ("joblib", "pip install joblib"),
    "SubmititLocal": ("submitit", "pip install 'trilab[slurm]'"),
    "Slurm": ("submitit", "pip install 'trilab[slurm]'"),
    "Ray": ("ray", "pip install 'trilab[ray]'"),
}


def is_elsewhere(launcher: Mapping[str, Any]) -> bool:
    """Whether runs go to other machines than this one, whose devices nothing here can tell of."""
    kind = str(launcher.get("_target_")).rpartition(".")[2]
    return kind == "Slurm" or (kind == "Ray" and bool(launcher.get("address")))


def check_launcher(name: str, launcher: Mapping[str, Any]) -> None:
    """Checks `hydra.launcher`.

    Args:
        name: of the option.
        launcher: its configuration.

    Raises:
        ConfigError: it is none of trilab's, is wrongly configured, or lacks what it needs.
    """
    target = str(launcher.get("_target_"))
    if target == _BASIC:
        return
    if not target.startswith(_PLUGINS):
        raise ConfigError(
            f"hydra/launcher={name}: not one of trilab's, under which every run ends with its true status. Allowed: "
            f"{', '.join(_NAMES)}."
        )
    check_part("hydra.launcher", dict(launcher))
    kind = target.rpartition(".")[2]
    package, command = _NEEDS[kind]
    if find_spec(package) is None:
        raise ConfigError(f"hydra/launcher={name} needs the package {package}: {command}")
    if kind == "Slurm" and not (which("sbatch") and which("srun")):
        raise ConfigError(
            "hydra/launcher=slurm: there is no Slurm here (no sbatch and srun). Launch it on a machine of the cluster; "
            "for processes of this one: hydra/launcher=joblib."
        )
