"""trilab's sweepers. Hydra looks for plugins in this namespace package and nowhere else."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class Grid(BasicSweeper):
    """Every combination of the swept values, as Hydra's own sweeper, without composing each run twice.

    Hydra's composes a whole batch before it launches the first run, and each run again when its turn comes: 0.1 s a
    run. `trilab.config.preflight` has checked every value by then.
    """

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: see the class."""
