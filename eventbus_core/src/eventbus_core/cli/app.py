"""The Typer application: all commands, and the options before a command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from eventbus_core._version import __version__
from eventbus_core.cli.acl import ACL_EXAMPLES, acl_command
from eventbus_core.cli.backends import BACKENDS_EXAMPLES, backends_command
from eventbus_core.cli.bench.bench_command import BENCH_EXAMPLES, BENCH_HELP, bench_command
from eventbus_core.cli.broadcast import BROADCAST_EXAMPLES, broadcast_command
from eventbus_core.cli.clients import CLIENTS_EXAMPLES, clients_command
from eventbus_core.cli.demo.demo_command import DEMO_EXAMPLES, DEMO_HELP, demo_command
from eventbus_core.cli.doctor import DOCTOR_EXAMPLES, doctor_command
from eventbus_core.cli.drain import DRAIN_EXAMPLES, drain_command
from eventbus_core.cli.explain import EXPLAIN_EXAMPLES, explain_command
from eventbus_core.cli.failure import INTERRUPTED, NOT_RUN
from eventbus_core.cli.history_command import HISTORY_EXAMPLES, history_command
from eventbus_core.cli.nodes import NODES_EXAMPLES, nodes_command
from eventbus_core.cli.publish import PUBLISH_EXAMPLES, publish_command
from eventbus_core.cli.send import SEND_EXAMPLES, send_command
from eventbus_core.cli.tail import TAIL_EXAMPLES, tail_command
from eventbus_core.cli.top import TOP_EXAMPLES, top_command
from eventbus_core.errors import ConfigurationError

APP_EXAMPLES: Final = """
Examples:

  eventbus demo

  eventbus doctor redis://localhost:6379/0

  EVENTBUS_URI=redis://user:password@host:6379/0 eventbus nodes --json

  eventbus tail 'order.*' --uri redis://localhost:6379/0

  eventbus --install-completion
"""
EXIT_STATUS: Final = """
Exit status: 0 on success, 1 if the command found a fault or could not send an event, \
2 for a wrong argument or if the bus cannot be reached, 130 after Ctrl-C, 143 after SIGTERM.
"""

USAGE_ERROR: Final[Any] = typer.BadParameter.__mro__[1]  # typer has no public name for it
_PASSWORD: Final = re.compile(r"(://[^/\s:@]*):\S*@")


class UriCommand(TyperCommand):
    """A command whose last argument is the URI; it accepts it as ``--uri`` too, like the other commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse *args* after making ``--uri URI`` the last argument, wherever it stands."""
        plain: list[str] = []
        named: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--uri":
                named.append(next(words, ""))
            elif word.startswith("--uri="):
                named.append(word.removeprefix("--uri="))
            else:
                plain.append(word)
        return super().parse_args(ctx, [*plain, *named])


app = typer.Typer(
    help="An event bus that delivers each event only to the server process that needs it.",
    epilog=APP_EXAMPLES + EXIT_STATUS,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # boxes leave no room for the text in a narrow terminal
    pretty_exceptions_enable=False,  # they show local variables, and a URI may contain a password
)
app.command("demo", cls=UriCommand, help=DEMO_HELP, epilog=DEMO_EXAMPLES + EXIT_STATUS)(demo_command)
app.command("bench", cls=UriCommand, help=BENCH_HELP, epilog=BENCH_EXAMPLES + EXIT_STATUS)(bench_command)
app.command("backends", epilog=BACKENDS_EXAMPLES + EXIT_STATUS)(backends_command)
app.command("doctor", cls=UriCommand, epilog=DOCTOR_EXAMPLES + EXIT_STATUS)(doctor_command)
app.command("acl", cls=UriCommand, epilog=ACL_EXAMPLES + EXIT_STATUS)(acl_command)
app.command("nodes", cls=UriCommand, epilog=NODES_EXAMPLES + EXIT_STATUS)(nodes_command)
app.command("clients", cls=UriCommand, epilog=CLIENTS_EXAMPLES + EXIT_STATUS)(clients_command)
app.command("explain", epilog=EXPLAIN_EXAMPLES + EXIT_STATUS)(explain_command)
app.command("top", cls=UriCommand, epilog=TOP_EXAMPLES + EXIT_STATUS)(top_command)
app.command("drain", cls=UriCommand, epilog=DRAIN_EXAMPLES + EXIT_STATUS)(drain_command)
app.command("tail", epilog=TAIL_EXAMPLES + EXIT_STATUS)(tail_command)
app.command("history", epilog=HISTORY_EXAMPLES + EXIT_STATUS)(history_command)
app.command("publish", epilog=PUBLISH_EXAMPLES + EXIT_STATUS)(publish_command)
app.command("send", epilog=SEND_EXAMPLES + EXIT_STATUS)(send_command)
app.command("broadcast", epilog=BROADCAST_EXAMPLES + EXIT_STATUS)(broadcast_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eventbus {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("-V", "--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options before a command."""


def run_app(arguments: Sequence[str]) -> int:
    """
    Run the command of *arguments*, and return its exit status.

    Raises:
        ConfigurationError: the arguments are wrong.
    """
    try:
        status = app(list(arguments), prog_name="eventbus", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    except USAGE_ERROR as error:
        if not arguments:
            error.show()  # the help
            return NOT_RUN
        raise ConfigurationError(_usage_message(error)) from None
    return status if isinstance(status, int) else 0


def _usage_message(error: Any) -> str:
    message = _PASSWORD.sub(r"\1:***@", error.format_message().rstrip(".").replace("Value error, ", ""))
    place = error.ctx.command_path if error.ctx else "eventbus"
    hint = "; name the bus with --uri" if "://" in message else ""
    stop = "" if message.endswith("?") else ";"
    return f"{message[:1].lower()}{message[1:]}{hint}{stop} see {place + ' --help'!r}"
