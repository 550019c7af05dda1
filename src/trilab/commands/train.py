"""trilab train: run an experiment, or with -m a sweep of them

usage: trilab train [FLAGS] [OVERRIDES]

overrides
  experiment=rl/dqn_cartpole      a named composition (see: trilab list experiment)
  model=rl/dqn data=rl/cartpole   an option of a group: model, data, optimizer, scheduler, trainer,
                                  callbacks, accelerator, precision, tracking, paths
  optimizer.lr=3e-4 seed=2        a value; trainer.* are Lightning's Trainer arguments
  trainer.seeds=[0,1,2]           reinforcement learning: that many agents at once as one batch, a run for each
  resume=PATH/last.ckpt           go on from a checkpoint of an earlier run
  '~callbacks.progress'           leave a part out

flags (Hydra's; all of them work)
  -m, --multirun                  every combination of comma-separated values: seed=1,2,3 precision=fp32,bf16-mixed
  -c job, --cfg job               print the configuration instead of running it (-p PART for a part)
  -cd DIR, --config-dir DIR       add a folder of your own groups and options
  -sc install=bash                shell completion: eval "$(trilab train -sc install=bash)"
  --info, --hydra-help, --version

exit code  0 finished, 1 failed, 2 wrong configuration, 130 Ctrl-C, 143 SIGTERM
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from trilab.cli import exit_code, report
from trilab.config.compose import CONFIG_MODULE, CONFIG_NAME, compose_unchecked
from trilab.config.job import Job
from trilab.config.preflight import preflight
from trilab.errors import ConfigError
from trilab.summary import BatchSummary, Summary
from trilab.tables import one_line, show_summary, show_sweep


def main(argv: list[str]) -> int:
    """Checks everything that will run, then hands over to Hydra."""
    flags, argv = parse(argv)
    if flags.shell_completion:
        from trilab.cli import COMMANDS
        from trilab.commands.completion import complete

        return complete(argv, list(COMMANDS))
    if flags.cfg or flags.info:
        compose_unchecked(flags.overrides, flags.config_dir)  # for the one-line errors
    elif not flags.hydra_help:
        preflight(flags.overrides, flags.config_dir, flags.multirun)
    return _hydra(argv)


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Hydra's flags, and the arguments in the order that its own parser takes: flags before overrides.

    Raises:
        ConfigError: no such flag.
    """
    parser = get_args_parser()
    # argparse's own prints the usage over ten lines.
    parser.error = _refuse  # type: ignore[method-assign]
    flags = parser.parse_intermixed_args(argv)
    first = list(argv)
    for override in flags.overrides:
        first.remove(override)
    return flags, [*first, *flags.overrides]


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}. See: trilab train --help")


def _hydra(argv: list[str]) -> int:
    # Hydra prints errors over several lines and exits with 1; with this it raises them.
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    old_argv, sys.argv = sys.argv, ["trilab", *argv]
    try:
        hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME)(_job)()
    except _Reported as error:
        return exit_code(error)
    except Exception as error:
        report(error)
        return exit_code(error)
    finally:
        if _outcomes:
            show_sweep(_outcomes)
            _outcomes.clear()
        sys.argv = old_argv
        if before is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
    return 0


#: What became of each run of a sweep in this process.
_outcomes: list[tuple[list[str], Summary | BatchSummary | Exception]] = []


def _job(config: DictConfig) -> Any:
    """What Hydra calls for each run; returns the goal's metric, for sweepers that optimise."""
    from trilab.train import train

    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode == RunMode.MULTIRUN
    choices, overrides = dict(hydra_config.runtime.choices), list(hydra_config.overrides.task)
    job, members = Job.of(config, choices, overrides), Job.of_each_seed(config, choices, overrides)
    if len(members) == 1:  # a batch of one is a run like any other
        job, members = members[0], []
    tags = {"trilab.sweep": Path(hydra_config.sweep.dir).name} if sweep else {}
    if not sweep:  # Hydra announces those of a sweep; the packages take some seconds to load
        print(f"{job.choices['experiment']} · {job.name}", file=sys.stderr)
    try:
        summary = train(job, Path(hydra_config.runtime.output_dir), tags, members=members)
    except Exception as error:
        report(error)
        if sweep:
            _outcomes.append((job.public.overrides, error))
            raise _Reported(error) from error  # Hydra goes on with the other jobs, and raises it at the end
        raise SystemExit(exit_code(error)) from None
    if sweep:
        _outcomes.append((job.public.overrides, summary))
        print(one_line(summary))
    else:
        show_summary(summary)
    return summary.result


class _Reported(Exception):
    """A failure of one job of a sweep that the user has been told of."""
