"""``eventbus explain``: the node that holds a client, and the partition for its events."""

from __future__ import annotations

from typing import Final

import typer

from eventbus_core.api.bus import Bus
from eventbus_core.cli.arguments import AsJson, ClientArgument, UriOption
from eventbus_core.cli.console import print_json
from eventbus_core.cli.failure import fail
from eventbus_core.cli.visit import FLAWED, no_node, other_nodes, place_of, visit
from eventbus_core.node.explanation import Explanation

EXPLAIN_EXAMPLES: Final = """
Examples:

  eventbus explain acme/alice --uri redis://localhost:6379/0
"""


def explain_command(
    client: ClientArgument,
    uri: UriOption,
    as_json: AsJson = False,
) -> None:
    """
    Show the node that holds a client, and the way of its events.

    The exit status is 1 if no node holds the client.
    """

    async def ask(bus: Bus) -> tuple[Explanation, bool]:
        return await bus.explain(client), bool(await other_nodes(bus))

    explanation, peopled = visit(uri, ask)
    if as_json:
        print_json(explanation)
    else:
        print(_in_words(explanation, uri))
    if not peopled:
        fail(no_node(uri), FLAWED)
    raise typer.Exit(FLAWED if explanation.owner is None else 0)


def _in_words(explanation: Explanation, uri: str) -> str:
    owner = explanation.owner
    if owner is None:
        return f"no node holds {explanation.client} in {place_of(uri)}: a send to it raises ClientNotFound"
    server = f" at {explanation.server}" if explanation.server else ""
    lease = "has ended" if explanation.lease_left is None else f"has {explanation.lease_left:.1f} s left"
    return (
        f"node {owner.node} (incarnation {owner.incarnation}) holds {explanation.client} with epoch {owner.epoch}\n"
        f"the lease of {owner.node} {lease}\n"
        f"events for it go to partition {explanation.partition}{server}"
    )
