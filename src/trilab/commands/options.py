"""Options of a command beside its overrides: `--name value` or `--name=value`."""

from collections.abc import Mapping, Sequence

from trilab.errors import ConfigError, nearest


def parse(command: str, argv: Sequence[str], defaults: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The options, those that are not given by default, and the other arguments.

    Args:
        command: for messages.
        argv: its arguments.
        defaults: of each option there is.

    Raises:
        ConfigError: there is no such option, or one is without a value.
    """
    options, rest = dict(defaults), []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("-"):
            rest.append(argument)
            continue
        name, equals, value = argument.partition("=")
        if name not in defaults:
            allowed = ", ".join(defaults)
            raise ConfigError(f"{command}: no option '{name}'.{nearest(name, defaults)} Allowed: {allowed}.")
        value = value if equals else next(arguments, "")
        if not value or value.startswith("--"):
            raise ConfigError(f"{command}: {name} needs a value.")
        options[name] = value
    return options, rest
