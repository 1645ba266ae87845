"""The Typer application: its commands, and the options that belong to none of them."""

from __future__ import annotations

from typing import Annotated

import typer

from eventbus_core._version import __version__
from eventbus_core.cli.backends import EXAMPLES as BACKENDS_EXAMPLES
from eventbus_core.cli.backends import backends_command
from eventbus_core.cli.bench.command import EXAMPLES as BENCH_EXAMPLES
from eventbus_core.cli.bench.command import HELP as BENCH_HELP
from eventbus_core.cli.bench.command import bench_command
from eventbus_core.cli.demo.command import EXAMPLES as DEMO_EXAMPLES
from eventbus_core.cli.demo.command import HELP as DEMO_HELP
from eventbus_core.cli.demo.command import demo_command
from eventbus_core.cli.directory import (
    CLIENTS_EXAMPLES,
    EXPLAIN_EXAMPLES,
    NODES_EXAMPLES,
    clients_command,
    explain_command,
    nodes_command,
)
from eventbus_core.cli.doctor import EXAMPLES as DOCTOR_EXAMPLES
from eventbus_core.cli.doctor import doctor_command
from eventbus_core.cli.sending import (
    BROADCAST_EXAMPLES,
    PUBLISH_EXAMPLES,
    SEND_EXAMPLES,
    broadcast_command,
    publish_command,
    send_command,
)
from eventbus_core.cli.tail import EXAMPLES as TAIL_EXAMPLES
from eventbus_core.cli.tail import tail_command
from eventbus_core.cli.top import EXAMPLES as TOP_EXAMPLES
from eventbus_core.cli.top import top_command

EXAMPLES = """
Examples:

  eventbus demo

  eventbus doctor redis://localhost:6379/0

  EVENTBUS_URI=redis://user:password@host:6379/0 eventbus nodes --json

  eventbus tail 'order.*' --uri redis://localhost:6379/0

  eventbus --install-completion
"""
STATUS = """
Exit status: 0 if all is well, 1 if it is not, 2 for a bad argument or a bus that cannot be reached, \
130 after Ctrl-C, 143 after SIGTERM.
"""

app = typer.Typer(
    help="Sends each event only to the server process that needs it; the backend is chosen by a URI.",
    epilog=EXAMPLES + STATUS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it shows locals, and a URI with its password is one
)
app.command("demo", help=DEMO_HELP, epilog=DEMO_EXAMPLES + STATUS)(demo_command)
app.command("bench", help=BENCH_HELP, epilog=BENCH_EXAMPLES + STATUS)(bench_command)
app.command("backends", epilog=BACKENDS_EXAMPLES + STATUS)(backends_command)
app.command("doctor", epilog=DOCTOR_EXAMPLES + STATUS)(doctor_command)
app.command("nodes", epilog=NODES_EXAMPLES + STATUS)(nodes_command)
app.command("clients", epilog=CLIENTS_EXAMPLES + STATUS)(clients_command)
app.command("explain", epilog=EXPLAIN_EXAMPLES + STATUS)(explain_command)
app.command("top", epilog=TOP_EXAMPLES + STATUS)(top_command)
app.command("tail", epilog=TAIL_EXAMPLES + STATUS)(tail_command)
app.command("publish", epilog=PUBLISH_EXAMPLES + STATUS)(publish_command)
app.command("send", epilog=SEND_EXAMPLES + STATUS)(send_command)
app.command("broadcast", epilog=BROADCAST_EXAMPLES + STATUS)(broadcast_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eventbus {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""
