"""``eventbus backends``: the installed backends, with their capabilities or the reason why they cannot be used."""

from __future__ import annotations

from typing import Final

import attrs
import msgspec
from rich.markup import escape
from rich.table import Table

from eventbus_core.api.discovery import Backend, backends, load_backend
from eventbus_core.backend import Capabilities
from eventbus_core.cli.arguments import AsJson
from eventbus_core.cli.console import StdoutConsole, print_json
from eventbus_core.cli.failure import fail
from eventbus_core.cli.visit import FLAWED
from eventbus_core.errors import EventBusError

BACKENDS_EXAMPLES: Final = """
Examples:

  eventbus backends

  eventbus backends --json
"""


class InstalledBackend(msgspec.Struct, frozen=True):
    """One installed backend: its capabilities, or the reason why it cannot be used."""

    scheme: str
    distribution: str
    version: str
    capabilities: Capabilities | None
    error: str | None


def backends_command(
    as_json: AsJson = False,
) -> None:
    """List the installed backends with their capabilities, or with the error that keeps them from loading."""
    rows = [_row(backend) for backend in backends()]
    if as_json:
        print_json(rows)
    elif rows:
        StdoutConsole().print_table(_table(rows))
    else:
        fail("no backend is installed: pip install eventbus", FLAWED)


def _row(backend: Backend) -> InstalledBackend:
    capabilities = error = None
    try:
        capabilities = load_backend(backend.scheme).capabilities
    except EventBusError as caught:
        error = str(caught)
    return InstalledBackend(backend.scheme, backend.distribution, backend.version, capabilities, error)


def _table(rows: list[InstalledBackend]) -> Table:
    table = Table("scheme", "distribution", "version", "capabilities", box=None, pad_edge=False)
    for row in rows:
        last = _in_words(row.capabilities) if row.capabilities else f"[red]error:[/] {escape(row.error or '')}"
        table.add_row(f"{row.scheme}://", row.distribution, row.version, last)
    return table


def _in_words(capabilities: Capabilities) -> str:
    values = attrs.asdict(capabilities)
    kept = [name for name, value in values.items() if value is True]
    return ", ".join([*kept, f"max_frame_size={capabilities.max_frame_size:,}"])
