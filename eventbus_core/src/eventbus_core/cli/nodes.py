"""``eventbus nodes``: the live nodes of a bus."""

from __future__ import annotations

from typing import Final

from rich.table import Table

from eventbus_core.backend import Node
from eventbus_core.cli.arguments import AsJson, UriArgument
from eventbus_core.cli.console import StdoutConsole, print_json
from eventbus_core.cli.failure import fail
from eventbus_core.cli.visit import FLAWED, no_node, other_nodes, visit

NODES_EXAMPLES: Final = """
Examples:

  eventbus nodes redis://localhost:6379/0

  EVENTBUS_URI=redis://user:password@host/0?namespace=staging eventbus nodes --json
"""


def nodes_command(uri: UriArgument, as_json: AsJson = False) -> None:
    """
    List the live nodes of a bus, without the node of this command.

    The exit status is 1 if there is none.
    """
    nodes = visit(uri, other_nodes)
    if as_json:
        print_json(nodes)
    if not nodes:
        fail(no_node(uri), FLAWED)
    if not as_json:
        StdoutConsole().print_table(_table(nodes))


def _table(nodes: list[Node]) -> Table:
    table = Table("node", "incarnation", box=None, pad_edge=False)
    table.add_column("lease left", justify="right")
    for node in nodes:
        table.add_row(node.id, str(node.incarnation), f"{node.lease_left:.1f} s")
    return table
