"""``eventbus clients``: the clients on a bus, with the nodes that hold them."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table

from eventbus_core.api.bus import Bus
from eventbus_core.cli.arguments import AsJson, UriArgument
from eventbus_core.cli.console import StdoutConsole, print_json
from eventbus_core.cli.failure import fail
from eventbus_core.cli.visit import FLAWED, no_node, other_nodes, place_of, visit
from eventbus_core.model.names import check_identifier

CLIENTS_EXAMPLES: Final = """
Examples:

  eventbus clients redis://localhost:6379/0 --prefix acme/

  eventbus clients redis://localhost:6379/0 --node server-1 --json
"""


class HeldBy(msgspec.Struct, frozen=True):
    """A client, and the node that holds it."""

    client: str
    node: str


def clients_command(
    uri: UriArgument,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Only clients whose names begin with it.")] = "",
    node: Annotated[str | None, typer.Option(metavar="NODE", help="Only clients that this node holds.")] = None,
    as_json: AsJson = False,
) -> None:
    """
    List the clients on a bus with their nodes.

    The list is read page by page: it may lack clients that come or go meanwhile.
    """
    if node is not None:
        check_identifier("node", node)

    async def find(bus: Bus) -> tuple[list[str], list[HeldBy]]:
        live = [other.id for other in await other_nodes(bus)]
        holders = live if node is None else [node] if node in live else []
        held = [HeldBy(client, holder) for holder in holders async for client in bus.clients(holder, prefix=prefix)]
        return live, sorted(held, key=lambda one: one.client)

    live, found = visit(uri, find)
    if as_json:
        print_json(found)
    if not live:
        fail(no_node(uri), FLAWED)
    if node is not None and node not in live:
        fail(f"no live node has the id {node!r} in {place_of(uri)}; live nodes: {', '.join(live)}", FLAWED)
    if not as_json:
        _show(found, f"no {'such ' * bool(prefix or node)}client in {place_of(uri)}; live nodes: {', '.join(live)}")


def _show(found: list[HeldBy], otherwise: str) -> None:
    table = Table("client", "node", box=None, pad_edge=False)
    for held in found:
        table.add_row(held.client, held.node)
    if found:
        StdoutConsole().print_table(table)
    else:
        print(otherwise)
