"""``eventbus nodes``, ``clients`` and ``explain``: who is on a bus, and where."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table

from eventbus_core.bus import Bus
from eventbus_core.cli.demo.table import stdout_console
from eventbus_core.cli.visit import FLAWED, AsJson, UriArgument, UriOption, visit
from eventbus_core.explanation import Explanation
from eventbus_core.names import check_client, check_identifier
from eventbus_core.transport import Node

NODES_EXAMPLES: Final = """
Examples:

  eventbus nodes redis://localhost:6379/0

  EVENTBUS_URI=redis://user:password@host/0?namespace=staging eventbus nodes --json
"""
CLIENTS_EXAMPLES: Final = """
Examples:

  eventbus clients redis://localhost:6379/0 --prefix acme/

  eventbus clients redis://localhost:6379/0 --node server-1 --json
"""
EXPLAIN_EXAMPLES: Final = """
Examples:

  eventbus explain acme/alice --uri redis://localhost:6379/0
"""


class Held(msgspec.Struct, frozen=True):
    """A client, and the node that holds it."""

    client: str
    node: str


def nodes_command(uri: UriArgument, as_json: AsJson = False) -> None:
    """List the live nodes of a bus, without this command's own."""
    nodes = visit(uri, _others)
    if as_json:
        typer.echo(msgspec.json.encode(nodes).decode())
        return
    table = Table("node", "incarnation", box=None, pad_edge=False)
    table.add_column("lease left", justify="right")
    for node in nodes:
        table.add_row(node.id, str(node.incarnation), f"{node.lease_left:.1f} s")
    _show(table, "no node is on the bus")


def clients_command(
    uri: UriArgument,
    prefix: Annotated[str, typer.Option(help="Only those whose names begin with it, such as 'acme/'.")] = "",
    node: Annotated[str | None, typer.Option(help="Only those that this node holds.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the clients on a bus and the nodes that hold them; who comes or goes meanwhile may be missed."""
    if node is not None:
        check_identifier("node", node)

    async def find(bus: Bus) -> list[Held]:
        nodes = [other.id for other in await _others(bus)] if node is None else [node]
        return [Held(client, holder) for holder in nodes async for client in bus.clients(holder, prefix=prefix)]

    found = sorted(visit(uri, find), key=lambda held: held.client)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    table = Table("client", "node", box=None, pad_edge=False)
    for held in found:
        table.add_row(held.client, held.node)
    _show(table, "no such client is on the bus" if prefix or node else "no client is on the bus")


def explain_command(
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Its name: NAME or TENANT/NAME.")],
    uri: UriOption,
    as_json: AsJson = False,
) -> None:
    """Say where a client is, and which way an event for it goes; the exit status is 1 if nobody holds it."""
    check_client(client)

    async def ask(bus: Bus) -> Explanation:
        return await bus.explain(client)

    explanation = visit(uri, ask)
    if as_json:
        typer.echo(msgspec.json.encode(explanation).decode())
    else:
        typer.echo(_in_words(explanation))
    raise typer.Exit(FLAWED if explanation.owner is None else 0)


async def _others(bus: Bus) -> list[Node]:
    return [node for node in await bus.nodes() if node.id != bus.node]


def _in_words(explanation: Explanation) -> str:
    owner = explanation.owner
    if owner is None:
        return f"nobody holds {explanation.client}: a send to it raises ClientNotFound"
    lease = "has ended" if explanation.lease_left is None else f"has {explanation.lease_left:.1f} s left"
    return (
        f"{explanation.client} is held by node {owner.node} (incarnation {owner.incarnation}) by epoch {owner.epoch}\n"
        f"the lease of {owner.node} {lease}\n"
        f"events for it go to partition {explanation.partition}"
    )


def _show(table: Table, otherwise: str) -> None:
    if table.row_count:
        stdout_console().print(table)
    else:
        typer.echo(otherwise)
