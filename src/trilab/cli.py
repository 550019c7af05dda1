"""The command line: `trilab train | study | evaluate | predict | ui | doctor | list`.

Each command lives in `trilab.commands`; here they are only named, so that help and errors come at once.
"""

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from trilab import __version__
from trilab.errors import ConfigError, UserError, nearest, say
from trilab.signals import Interrupted, interruptible, interruption

COMMANDS = {
    "train": "run an experiment, or with -m a sweep of them",
    "compare": "hold the runs of a sweep, an experiment or by id against each other: table, verdict, plots",
    "sweep": "how a sweep stands: done, running, failed, to do, the best so far",
    "study": "a question put to many runs, and the answer: tables and plots in its folder",
    "evaluate": "test the best checkpoint of an earlier run",
    "resume": "go on with a run that was stopped or failed, in the same MLflow run",
    "reproduce": "run an earlier run again, and say whether its metrics are equal",
    "predict": "score raw rows of a table with an earlier run's best checkpoint",
    "register": "put an earlier run's model into MLflow's registry",
    "serve": "answer requests over HTTP with an earlier run's model, or a registered one",
    "sync": "send what runs could not send while their tracking store was away",
    "ui": "open the MLflow UI on the store that the runs went to",
    "doctor": "check this machine: accelerators, precisions, packages, store, data",
    "list": "every experiment, model, data set and other option, with a line each",
}

HELP = """\
trilab: experiments as compositions of configuration groups, every run in MLflow

usage: trilab COMMAND [OPTIONS] [OVERRIDES]

commands
{commands}

examples
  trilab train                                             the default: Double DQN on CartPole
  trilab train experiment=recsys/deepfm_synthetic optimizer.lr=3e-3 precision=bf16-mixed
  trilab train -m experiment=rl/dqn_cartpole,rl/double_dqn_cartpole seed=1,2,3
  trilab evaluate run=RUN_ID accelerator=cuda
  trilab reproduce RUN_ID
  trilab register RUN_ID --name cartpole --alias champion
  trilab serve models:/cartpole@champion
  trilab COMMAND --help
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; exits with 0, 1 (it failed), 2 (it was asked for wrongly), 130 or 143 (it was stopped)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode gets question marks, not an error
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a user's own models; last, so that they hide no installed package
    try:
        with interruptible():
            sys.exit(_run(arguments))
    except Interrupted as stopped:
        say(f"stopped by {stopped}")
        sys.exit(stopped.exit_code)
    except ConfigError as error:
        say(str(error))
        sys.exit(2)
    except UserError as error:
        say(str(error))
        sys.exit(1)
    except BrokenPipeError:  # `trilab list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())))
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V"):
        print(f"trilab {__version__}")
        return 0
    if arguments[0] in ("-sc", "--shell-completion"):
        from trilab.commands.completion import complete

        return complete(arguments, list(COMMANDS))
    command, *rest = arguments
    if command not in COMMANDS:
        raise ConfigError(f"'{command}': no such command.{nearest(command, COMMANDS)} Allowed: {', '.join(COMMANDS)}.")
    module = importlib.import_module(f"trilab.commands.{command}")
    if any(argument in ("-h", "--help") for argument in rest):
        print((module.__doc__ or "").strip())
        return 0
    return int(module.main(rest) or 0)


def report(error: BaseException) -> None:
    """Prints what ended a run: one line for the user's errors, the traceback for others.

    Raises:
        Interrupted: the process was asked to stop, and the error is only what came of that.
    """
    stopped = interruption()
    if stopped is not None:
        raise stopped from error
    user_error = cause(error)
    if user_error is not None:
        say(str(user_error))
    else:
        traceback.print_exception(error)


def exit_code(error: BaseException) -> int:
    """2 where the user asked for something that cannot be, 1 for every other failure."""
    return 2 if isinstance(cause(error), ConfigError) else 1


def cause(error: BaseException | None) -> UserError | None:
    """The UserError that an exception is, or was raised from (Hydra wraps what constructors raise)."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        about_arguments = isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException"
        if about_arguments and _raised_in(error) in _CHECK_ARGUMENTS:
            return UserError(str(error))
        error = error.__cause__
    return None


#: Packages whose errors of that kind are about the arguments that a configuration gives them.
_CHECK_ARGUMENTS = ("pytorch_lightning", "lightning_fabric")


def _raised_in(error: BaseException) -> str:
    """The top-level package of the code that raised an exception."""
    name = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__", ""))
    return name.partition(".")[0]
