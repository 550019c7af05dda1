"""trilab's sweepers. Hydra looks for plugins in this namespace package and nowhere else, and loads it at each start."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from trilab.ranges import NonNegativeInt, PositiveInt
from trilab.runtime import cores

if TYPE_CHECKING:
    from trilab.sweeps.sweep import Sweep


class _Sweeper(Sweeper):
    """What they have in common.

    A run that fails keeps none of the others from running, and nothing is composed before its turn:
    `trilab.config.preflight` has checked every value by then.
    """

    def __init__(self) -> None:
        self._side_by_side = 1
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        from trilab.sweeps.composer import Composer

        own = config.hydra.launcher
        if "n_jobs" in own:
            self._side_by_side = own.n_jobs or cores()
        elif "cpus_per_run" in own and own.address is None:
            self._side_by_side = max(1, int((own.num_cpus or cores()) // own.cpus_per_run))
        loader: Any = Composer(hydra_context.config_loader)
        context = HydraContext(loader, hydra_context.callbacks)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launches what is not finished yet.

        Args:
            arguments: overrides of the first run; those of all are known from the sweep.
        """
        from trilab.sweeps.sweep import current

        sweep = current()
        if sweep is None:
            raise RuntimeError("no sweep is open: trilab train -m opens one")
        assert self.launcher is not None
        self._search(sweep, self.launcher)

    @abstractmethod
    def _search(self, sweep: "Sweep", launcher: Launcher) -> None: ...


class Grid(_Sweeper):
    """Every combination of the values.

    Args:
        max_batch_size: runs handed to the launcher at once; None for all.
        params: values and intervals by key, which `trilab.config.preflight` has made part of the sweep's space.
    """

    def __init__(self, max_batch_size: PositiveInt | None, params: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._max_batch_size = max_batch_size

    def _search(self, sweep: "Sweep", launcher: Launcher) -> None:
        from trilab.sweeps.search import search_grid

        search_grid(sweep, launcher, self._max_batch_size)


class Random(_Sweeper):
    """Combinations that are drawn at random, none twice.

    Args:
        n_trials: runs in all.
        seed: settles which.
        max_batch_size: runs handed to the launcher at once; None for all.
        params: values and intervals by key, which `trilab.config.preflight` has made part of the sweep's space.
    """

    def __init__(
        self,
        n_trials: PositiveInt,
        seed: NonNegativeInt,
        max_batch_size: PositiveInt | None,
        params: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        self._n_trials, self._seed, self._max_batch_size = n_trials, seed, max_batch_size

    def _search(self, sweep: "Sweep", launcher: Launcher) -> None:
        from trilab.sweeps.search import search_random

        search_random(sweep, launcher, self._n_trials, self._seed, self._max_batch_size)


class Optuna(_Sweeper):
    """What a study of Optuna asks for; see `trilab.sweeps.search.StudySettings` for the arguments.

    Args:
        params: values and intervals by key, which `trilab.config.preflight` has made part of the sweep's space.
    """

    def __init__(
        self,
        n_trials: PositiveInt,
        parallel: PositiveInt | None,
        sampler: Literal["tpe", "cmaes", "random", "grid"],
        startup_trials: NonNegativeInt,
        seed: NonNegativeInt,
        pruner: Literal["none", "median", "halving"],
        pruner_startup_trials: NonNegativeInt,
        pruner_warmup: NonNegativeInt,
        pruner_reduction: PositiveInt,
        storage: str | None,
        params: Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        self._settings: dict[str, Any] = {
            "n_trials": n_trials,
            "parallel": parallel,
            "sampler": sampler,
            "startup_trials": startup_trials,
            "seed": seed,
            "pruner": pruner,
            "pruner_startup_trials": pruner_startup_trials,
            "pruner_warmup": pruner_warmup,
            "pruner_reduction": pruner_reduction,
            "storage": storage,
        }

    def _search(self, sweep: "Sweep", launcher: Launcher) -> None:
        from trilab.sweeps.search import StudySettings, search_study

        parallel = self._settings["parallel"] or self._side_by_side
        search_study(sweep, launcher, StudySettings(**{**self._settings, "parallel": parallel}))
