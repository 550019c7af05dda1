"""What draws the trials of a search, and what stops them early."""

from typing import Literal

from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler

Sampler = Literal["tpe", "cmaes", "random", "grid"]
Pruner = Literal["none", "median", "halving"]


def make_sampler(kind: Sampler, seed: int, startup_trials: int, in_parallel: bool) -> BaseSampler:
    """What draws a trial.

    TPE: Bergstra et al. 2011 (https://papers.nips.cc/paper/4443). CMA-ES: Hansen 2016
    (https://arxiv.org/abs/1604.00772). Neither keeps anything that is not in the study's store, so that one is made for
    each trial, seeded by its number: a study that was interrupted draws as one that was not.

    Args:
        kind: its name.
        seed: of this trial.
        startup_trials: trials drawn at random before any is drawn by what came of others.
        in_parallel: others run at the same time; TPE then keeps away from where those are.
    """
    if kind == "tpe":
        return TPESampler(seed=seed, n_startup_trials=startup_trials, constant_liar=in_parallel)
    if kind == "cmaes":
        return CmaEsSampler(seed=seed, n_startup_trials=startup_trials, warn_independent_sampling=False)
    return RandomSampler(seed=seed)


def make_pruner(kind: Pruner, startup_trials: int, warmup: int, reduction: int) -> BasePruner:
    """What stops a run early.

    The median rule: Golovin et al. 2017 (https://doi.org/10.1145/3097983.3098043). Asynchronous successive halving:
    Li et al. 2020 (https://arxiv.org/abs/1810.05934).

    Args:
        kind: its name.
        startup_trials: runs of a study that the median rule lets finish first.
        warmup: validations that every run is given.
        reduction: successive halving lets one in so many go on.
    """
    if kind == "median":
        return MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=warmup)
    if kind == "halving":
        return SuccessiveHalvingPruner(min_resource=max(1, warmup), reduction_factor=reduction)
    return NopPruner()
