"""trilab's sweepers. Hydra looks for plugins in this namespace package and nowhere else."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser


class Grid(BasicSweeper):
    """Every combination of the swept values, in Hydra's own syntax.

    Differs from Hydra's own sweeper in that a run which fails keeps none of the others from running, and that nothing
    is composed twice: Hydra's composes a whole batch before it launches the first run of it, and
    `trilab.config.preflight` has checked every value by then.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Launches what is not finished yet."""
        from trilab.sweeps.launch import launch

        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        for batch in self.split_arguments(overrides, self.max_batch_size):
            launch(self.launcher, batch)
