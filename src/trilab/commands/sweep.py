"""trilab sweep: how a sweep stands

usage: trilab sweep status NAME [tracking.uri=URI]
       trilab sweep list [tracking.uri=URI]

status says what of a sweep is done, running, failed and still to do, when it will be over and which run is the best so
far; list has a line for each sweep. Both read the store alone, so that they work from another terminal or machine while
the sweep runs. A sweep is started, and gone on with, by: trilab train -m ... sweep.name=NAME

exit code  0 shown, 2 no such sweep or store
"""

from datetime import datetime
from typing import TYPE_CHECKING

from rich.table import Table

from trilab.console import program, show
from trilab.errors import ConfigError, nearest

if TYPE_CHECKING:
    from trilab.sweeps.state import State

_ACTIONS = ("status", "list")
#: Most runs of a kind that are named.
_NAMED = 5


def main(argv: list[str]) -> int:
    """Prints a table."""
    action, names, overrides = _arguments(argv)
    from trilab.runtime import fast_imports

    with fast_imports():
        from trilab.sweeps.earlier import sweep_runs
        from trilab.sweeps.state import find_sweep, state_of
        from trilab.tracking.lookup import open_store, uri_of
    client = open_store(uri_of(overrides))
    if action == "status":
        _show_status(find_sweep(client, names[0]))
    else:
        _show_list([state_of(client, run) for run in sweep_runs(client)])
    return 0


def _arguments(argv: list[str]) -> tuple[str, list[str], list[str]]:
    """What to show, names, and overrides.

    Raises:
        ConfigError: there is no such thing to show, or a name is missing.
    """
    overrides = [argument for argument in argv if "=" in argument]
    action, *names = [argument for argument in argv if "=" not in argument] or [""]
    unknown = next((text for text in overrides if not text.startswith("tracking.uri=")), None)
    if unknown is not None:
        raise ConfigError(f"sweep: unknown argument '{unknown}'. Allowed: tracking.uri=...")
    if action not in _ACTIONS:
        asked = f"no action '{action}'.{nearest(action, _ACTIONS)}" if action else "what of it?"
        raise ConfigError(f"sweep: {asked} Allowed: trilab sweep status NAME, trilab sweep list.")
    if len(names) != (action == "status"):
        raise ConfigError(f"sweep {action} takes {'one name' if action == 'status' else 'no name'}: {' '.join(names)}")
    return action, names, overrides


def _show_status(state: "State") -> None:
    from trilab.sweeps.watch import duration

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("sweep", f"{state.name}, {state.status}, started {_time(state)}")
    pruned = f", {len(state.pruned)} of them pruned" if state.pruned else ""
    table.add_row("done", f"{len(state.done)} of {state.total if state.total is not None else '?'}{pruned}")
    for what, runs in (("running", state.running), ("failed", state.failed), ("stopped", state.stopped)):
        names = ", ".join(str(run.info.run_name) for run in runs[:_NAMED])
        more = f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
        table.add_row(what, f"{len(runs)}{f'  {names}{more}' if runs else ''}")
    table.add_row("to do", "not known" if state.to_do is None else str(state.to_do))
    if state.is_running:
        left = state.left_s
        table.add_row("time left", "not known until a run has ended" if left is None else f"about {duration(left)}")
    if state.best:
        table.add_row("best so far", state.best)
    if not state.is_running and (state.to_do or state.failed or state.stopped):
        table.add_row("go on", _again(state))
    show(table)


def _show_list(states: "list[State]") -> None:
    if not states:
        print("There are no sweeps in the store. Start one: trilab train -m seed=1,2,3 sweep.name=NAME")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("sweep", "status", "done", "failed", "started", "best"):
        table.add_column(column, overflow="fold")
    for state in states:
        total = state.total if state.total is not None else "?"
        done = f"{len(state.done)} of {total}"
        table.add_row(state.name, state.status, done, str(len(state.failed)), _time(state), state.best)
    show(table)


def _time(state: "State") -> str:
    return f"{datetime.fromtimestamp(state.run.info.start_time / 1000):%Y-%m-%d %H:%M}"


def _again(state: "State") -> str:
    """The command that goes on with it."""
    command = str(state.run.data.tags.get("mlflow.source.name", "trilab train -m ..."))
    command = command.replace("trilab", program(), 1) if command.startswith("trilab") else command
    return command if "sweep.name=" in command else f"{command} sweep.name={state.name}"
