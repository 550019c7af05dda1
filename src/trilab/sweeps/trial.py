"""A run's part in a search that may stop it early, as a file in its output folder.

The search writes it before the run is launched; the run, wherever it is, reports its validations to the search's store
(`trilab.callbacks.pruning`) and notes here that it was stopped.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

_FILE = "trial.json"


@dataclass
class Trial:
    """A trial of an Optuna study.

    Args:
        storage: URI of Optuna's store.
        study: its name there.
        number: of the trial in the study, from 0.
        pruner: what decides; the arguments of `trilab.sweeps.study.make_pruner`.
        pruned: validations after which the run was stopped; None where it was not.
    """

    storage: str
    study: str
    number: int
    pruner: dict[str, str | int] = field(default_factory=dict)
    pruned: int | None = None

    def write(self, folder: Path) -> None:
        """Writes it whole or not at all, for nobody else to read: the store's URI may hold a password."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{_FILE}.part"
        part.touch(mode=0o600)
        part.write_text(json.dumps(asdict(self)))
        part.replace(folder / _FILE)

    @classmethod
    def read(cls, folder: Path) -> "Trial | None":
        """That of a run, by its output folder; None of one that no search may stop."""
        try:
            return cls(**json.loads((folder / _FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None
