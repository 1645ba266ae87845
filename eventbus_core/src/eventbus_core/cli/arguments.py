"""The arguments and options that several commands share, and the checks of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeAlias

import typer

from eventbus_core.backend import TransportURI
from eventbus_core.errors import ConfigurationError, EventBusError
from eventbus_core.model.names import check_address, check_client, check_topic

URI_HELP: Final = "Address of the bus. Defaults to $EVENTBUS_URI, which keeps passwords off the command line."


def whole_number(value: Any) -> int:
    """Parse the value of an option that is a whole number of at least 1."""
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise typer.BadParameter(f"{value!r} is not a whole number of at least 1")
    return number


def duration(value: Any) -> float:
    """Parse the value of an option that is at least 0.1 seconds."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds < math.inf:
        raise typer.BadParameter(f"{value!r} is not a number of seconds of at least 0.1")
    return seconds


def name(kind: str, check: Callable[[str], str]) -> Callable[[str | None], str | None]:
    """Return a callback for an argument that names a *kind* of receiver and passes *check*."""

    def checked(value: str | None) -> str | None:
        if value is None:
            return None
        if "://" in value:
            raise ConfigurationError(f"{_without_password(value)} is a URI, but a {kind} must stand there; add --uri")
        if kind != "CLIENT" and value[:1] in ("{", "[", '"'):
            raise ConfigurationError(f"{value!r} looks like data, but the {kind} must stand before the data")
        return check(value)

    return checked


def _without_password(uri: str) -> str:
    try:
        return str(TransportURI.parse(uri))
    except EventBusError:
        return "the first argument"


def _named(context: typer.Context, uri: str) -> str:
    if not uri and not context.resilient_parsing:  # which it is while a shell completes
        option = any("--uri" in parameter.opts for parameter in context.command.params)
        example = f"such as {'--uri ' * option}redis://localhost:6379/0"
        raise ConfigurationError(f"no bus is named: give its URI, {example}, or set EVENTBUS_URI")
    return uri


_GIVEN: Final[dict[str, Any]] = {
    "metavar": "URI",
    "envvar": "EVENTBUS_URI",
    "help": URI_HELP,
    "callback": _named,
    "default_factory": str,
    "show_default": False,
}
UriArgument: TypeAlias = Annotated[str, typer.Argument(**_GIVEN)]
UriOption: TypeAlias = Annotated[str, typer.Option("--uri", **_GIVEN)]
UriOrMemory: TypeAlias = Annotated[str, typer.Argument(metavar="URI", envvar="EVENTBUS_URI", help=URI_HELP)]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs and nothing else.")]
NodeCount: TypeAlias = Annotated[
    int,
    typer.Option(
        "--nodes",
        parser=whole_number,
        metavar="N",
        help="Number of nodes; one process each, if the backend allows it.",
    ),
]
ClientCount: TypeAlias = Annotated[
    int,
    typer.Option(
        "--clients",
        parser=whole_number,
        metavar="N",
        help="Number of clients, spread evenly over the nodes.",
    ),
]
Seconds: TypeAlias = Annotated[
    float, typer.Option("--seconds", parser=duration, metavar="SECONDS", help="How long the nodes send.")
]
ClientArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="CLIENT", callback=name("CLIENT", check_client), help="NAME or TENANT/NAME.")
]
TargetArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="CLIENT", callback=name("CLIENT", check_address), help="NAME or TENANT/NAME; or a node, as @NODE."
    ),
]
TopicArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="TOPIC", callback=name("TOPIC", check_topic), help="Tokens with dots between, such as order.created."
    ),
]
TypeArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="TYPE", callback=name("TYPE", check_topic), help="The type of the events, such as chat.message."
    ),
]
EndAfterEvents: TypeAlias = Annotated[
    int | None, typer.Option("--count", parser=whole_number, metavar="N", help="End after N events.")
]
EndAfterReadings: TypeAlias = Annotated[
    int | None, typer.Option("--count", parser=whole_number, metavar="N", help="End after N readings.")
]
