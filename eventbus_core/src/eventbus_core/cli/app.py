"""The Typer application: its commands, and the options that belong to none of them."""

from __future__ import annotations

from typing import Annotated

import typer

from eventbus_core._version import __version__
from eventbus_core.cli.backends import backends_command
from eventbus_core.cli.bench.command import HELP as BENCH_HELP
from eventbus_core.cli.bench.command import bench_command
from eventbus_core.cli.demo.command import HELP, demo_command

EXAMPLES = """
Examples:

  eventbus demo

  eventbus demo redis://localhost:6379/0 --nodes 3 --clients 15 --seconds 5

  EVENTBUS_URI=redis://user:password@host:6379/0 eventbus demo --json

  eventbus backends
"""

app = typer.Typer(
    help="Sends each event only to the server process that needs it; the backend is chosen by a URI.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it shows locals, and a URI with its password is one
)
app.command("demo", help=HELP, epilog=EXAMPLES)(demo_command)
app.command("bench", help=BENCH_HELP)(bench_command)
app.command("backends")(backends_command)


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
