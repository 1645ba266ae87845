"""``eventbus backends``: what is installed, and whether it can be used."""

from __future__ import annotations

from typing import Annotated, Final

import attrs
import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eventbus_core.discovery import Backend, backends, load_backend
from eventbus_core.errors import EventBusError
from eventbus_core.transport import Capabilities

EXAMPLES: Final = """
Examples:

  eventbus backends

  eventbus backends --json
"""


class Row(msgspec.Struct, frozen=True):
    """One installed backend: what it promises, or why it cannot be used."""

    scheme: str
    distribution: str
    version: str
    capabilities: Capabilities | None
    error: str | None


def backends_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array, and nothing else.")] = False,
) -> None:
    """List the installed backends, what each promises, and what is wrong with those that cannot be loaded."""
    rows = [_row(backend) for backend in backends()]
    if as_json:
        typer.echo(msgspec.json.encode(rows).decode())
    elif rows:
        Console().print(_table(rows))
    else:
        typer.echo("no backend is installed: pip install eventbus")


def _row(backend: Backend) -> Row:
    capabilities = error = None
    try:
        capabilities = load_backend(backend.scheme).capabilities
    except EventBusError as caught:
        error = str(caught)
    return Row(backend.scheme, backend.distribution, backend.version, capabilities, error)


def _table(rows: list[Row]) -> Table:
    table = Table("scheme", "distribution", "version", "capabilities", box=None, pad_edge=False)
    for row in rows:
        last = _promises(row.capabilities) if row.capabilities else f"[red]error:[/] {escape(row.error or '')}"
        table.add_row(f"{row.scheme}://", row.distribution, row.version, last)
    return table


def _promises(capabilities: Capabilities) -> str:
    values = attrs.asdict(capabilities)
    kept = [name for name, value in values.items() if value is True]
    return ", ".join([*kept, f"max_frame_size={capabilities.max_frame_size:,}"])
