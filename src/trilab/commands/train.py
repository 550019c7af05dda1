"""trilab train: run an experiment, or with -m a sweep of them

usage: trilab train [FLAGS] [OVERRIDES]

overrides
  experiment=rl/dqn_cartpole      a named composition (see: trilab list experiment)
  model=rl/dqn data=rl/cartpole   an option of a group: model, data, optimizer, scheduler, trainer,
                                  callbacks, accelerator, precision, tracking, paths
  optimizer.lr=3e-4 seed=2        a value; trainer.* are Lightning's Trainer arguments
  trainer.seeds=[0,1,2]           reinforcement learning: that many agents at once as one batch, a run for each
  sweep.name=NAME                 of a sweep; launched again under it, it goes on with what is not finished
  hydra/sweeper=random or optuna  with -m: draw runs from values and intervals, as in
                                  'optimizer.lr=tag(log, interval(1e-4,1e-1))' hydra.sweeper.n_trials=20
  hydra/launcher=joblib           where a sweep's runs go: basic (here), joblib, submitit_local, slurm, ray
  trainer.devices=2               processes that share a run, each with its part of every batch
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
import shlex
import sys
import textwrap
import time
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trilab.cli import cause, exit_code, report
from trilab.config.compose import CONFIG_MODULE, CONFIG_NAME, compose_unchecked
from trilab.config.job import Job, build
from trilab.config.preflight import Checked, preflight
from trilab.errors import ConfigError, UserError
from trilab.runtime import fast_imports
from trilab.signals import interruption
from trilab.sweeps.outcome import Outcome
from trilab.tables import short_result, short_speed, show_summary
from trilab.tracking.secrets import redacted
from trilab.tracking.settings import Tracking

#: The MLflow experiment of sweeps over several experiments.
_SEVERAL = "sweeps"
#: Overrides that say where a run belongs, not what it is.
_OF_THE_SWEEP = ("sweep.name", "sweep.metric", "sweep.mode", "sweep.compare", "tracking.experiment_name")
_LONGEST_TITLE = 100


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
        checked = preflight(flags.overrides, flags.config_dir, flags.multirun)
    try:
        if flags.multirun and not (flags.cfg or flags.info or flags.hydra_help):
            _sweep(argv, flags, checked)
        else:
            _hydra(argv)
    except UserError:
        raise
    except Exception as error:
        report(error)
        return exit_code(error)
    return 0


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


def _sweep(argv: list[str], flags: argparse.Namespace, checked: Checked) -> None:
    """Opens the sweep's own MLflow run, and has Hydra launch the runs in it.

    Hydra composes a configuration of the whole sweep without what is swept, which may not be possible. So it is given
    that of the first run; its sweeper knows the others from the sweep.
    """
    config = checked.config
    name = config.sweep.name or f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}"
    added = [] if config.sweep.name else [f"sweep.name={name}"]
    if len(checked.experiment_names) > 1:  # MLflow nests and compares runs within one experiment
        config.tracking.experiment_name = _SEVERAL
        added.append(f"tracking.experiment_name={_SEVERAL}")
    settings: Tracking = build(config.tracking)
    with fast_imports():
        from trilab.sweeps.sweep import open_sweep
    tags = {
        "mlflow.source.name": shlex.join(["trilab", "train", *argv]),
        "trilab.goal": f"{config.goal.mode} {config.goal.metric}",
    }
    swept = " ".join(f"{key}={','.join(values) or '?'}" for key, values in checked.swept.items())
    title = config.sweep.name or textwrap.shorten(f"sweep {swept}", _LONGEST_TITLE, placeholder=" ...")
    folder = Path(config.paths.outputs) / "sweeps" / name
    sweep = None
    try:
        with open_sweep(settings, name, title, tags, folder, flags.config_dir, checked, added) as sweep:
            given = argv[: len(argv) - len(flags.overrides)]
            _hydra([*given, *checked.first, *added, sweep.place.as_override()])
    finally:  # where runs failed, of the others
        if config.sweep.compare and sweep is not None and interruption() is None:
            sweep.compare()


def _hydra(argv: list[str]) -> None:
    # Hydra prints errors over several lines and exits with 1; with this it raises them.
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    old_argv, sys.argv = sys.argv, ["trilab", *argv]
    try:
        hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME)(_job)()
    finally:
        sys.argv = old_argv
        if before is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _job(config: DictConfig) -> Any:
    """What Hydra calls for each run; returns the goal's metric, for sweepers that optimise."""
    from trilab.sweeps.judge import judge
    from trilab.sweeps.place import Place, key_of
    from trilab.sweeps.trial import Trial
    from trilab.train import train

    started, hydra_config, place = time.time(), HydraConfig.get(), Place.here()
    choices = dict(hydra_config.runtime.choices)
    overrides = [text for text in hydra_config.overrides.task if key_of(text) not in _OF_THE_SWEEP]
    swept = place.values(overrides) if place else ""
    job = Job.of(config, choices, overrides, swept)
    members = Job.of_each_seed(config, choices, overrides, swept)
    if len(members) == 1:  # a batch of one is a run like any other
        job, members = members[0], []
    folder = Path(hydra_config.runtime.output_dir)
    if place is None or not place.quiet:  # the packages take some seconds to load
        print(f"{job.choices['experiment']} · {job.name}", file=sys.stderr)
    if place is None:
        try:
            summary = train(job, folder, members=members)
        except Exception as error:
            report(error)
            raise SystemExit(exit_code(error)) from None
        show_summary(summary)
        return summary.result
    outcome = Outcome(int(hydra_config.job.num), job.name, job.hash, job.public.overrides, "FAILED")
    try:
        summary = train(job, folder, place.tags, members=members)
        outcome.finished(summary, short_result(summary), short_speed(summary))
        judge(outcome, job.config, build(config.tracking).uri)
        trial = Trial.read(folder)
        outcome.pruned = trial is not None and trial.pruned is not None
        outcome.status = "FINISHED"
    except Exception as error:
        if not (place.quiet and cause(error)):  # the sweep says it
            report(error)
        said = redacted(" ".join(str(error).split()) or type(error).__name__)
        outcome.shown, outcome.wrong = said, exit_code(error) == 2
        raise ReportedError(said) from None  # Hydra goes on with the other runs
    finally:
        outcome.seconds = time.time() - started
        if interruption() is None:
            outcome.write(folder)
    return summary.result


class ReportedError(Exception):
    """A failure of one run of a sweep that the user has been told of."""
