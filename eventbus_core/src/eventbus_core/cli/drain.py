"""``eventbus drain``: has a node give up its clients, and shows how far it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic
from typing import Annotated, Final

import anyio
import msgspec
import typer

from eventbus_core.api.bus import Bus
from eventbus_core.cli.arguments import AsJson, UriArgument, name
from eventbus_core.cli.console import print_json
from eventbus_core.cli.failure import fail
from eventbus_core.cli.visit import FLAWED, place_of, visit
from eventbus_core.errors import ClientNotFound, RequestFailed, RequestTimeout
from eventbus_core.model.names import check_identifier
from eventbus_core.node.draining import check_over

DRAIN_EXAMPLES: Final = """
Examples:

  eventbus drain server-1 redis://localhost:6379/0

  EVENTBUS_URI=redis://user:password@host:6379/0 eventbus drain server-1 --over 60
"""
READING_PAUSE: Final = 0.5
REPEAT_AFTER: Final = 5.0 - READING_PAUSE
"""Seconds after which a line that has not changed is printed again."""
DRAINED: Final = "drained"
GONE: Final = "gone"


class DrainProgress(msgspec.Struct, frozen=True):
    """
    How far a node is.

    Attributes:
        state: of its bus; ``gone`` if it has left.
        to_move: clients that it has not given up yet.
        waiting: clients that it has given up and no node has claimed yet; it keeps their events.
    """

    node: str
    state: str
    to_move: int = 0
    waiting: int = 0

    def __str__(self) -> str:
        if self.state == GONE:
            return f"{self.node} has left the bus"
        waiting = "1 waits for its next claim" if self.waiting == 1 else f"{self.waiting:,} wait for their next claim"
        if self.state == DRAINED:
            return f"{self.node} has drained: {waiting}; its process can be stopped"
        clients = "client" if self.to_move == 1 else "clients"
        return f"{self.node} is {self.state}: {self.to_move:,} {clients} to move, {waiting}"


def drain_command(
    node: Annotated[
        str,
        typer.Argument(
            metavar="NODE",
            callback=name("NODE", lambda text: check_identifier("node", text.removeprefix("@"))),
            help="Its id, as 'eventbus nodes' shows it.",
        ),
    ],
    uri: UriArgument,
    over: Annotated[
        float, typer.Option("--over", metavar="SECONDS", help="Time over which its clients go, evenly spread.")
    ] = 30.0,
    as_json: AsJson = False,
) -> None:
    """
    Have a node give up its clients before it is stopped, and wait until it has.

    It claims no clients any more, and has its clients connect to other nodes, evenly spread over the time. Then stop
    its process. Ctrl-C ends this command, not the drain. The exit status is 1 if no such node is live, or if it does
    not answer any more.
    """
    check_over(over)

    async def work(bus: Bus) -> None:
        await bus.drain_node(node, over=over)
        before, repeat_at = None, 0.0
        async for progress in _progress(bus, node):
            if progress != before or monotonic() >= repeat_at:
                before, repeat_at = progress, monotonic() + REPEAT_AFTER
                if as_json:
                    print_json(progress)
                else:
                    print(progress, flush=True)

    try:
        visit(uri, work)
    except ClientNotFound:
        fail(f"no live node has the id {node!r} in {place_of(uri)}; 'eventbus nodes' lists those that are live", FLAWED)
    except RequestTimeout:
        fail(f"node {node!r} does not answer; it hangs, or runs a version that cannot be drained from here", FLAWED)
    except RequestFailed as error:
        fail(f"node {node!r} does not answer any more: {error.reason}; 'eventbus nodes' lists live nodes", FLAWED)


async def _progress(bus: Bus, node: str) -> AsyncIterator[DrainProgress]:
    """Yield how far *node* is, again and again, until it has drained or left."""
    incarnation = None
    while True:
        try:
            stats = await bus.node_stats(node)
        except ClientNotFound:
            yield DrainProgress(node, GONE)
            return
        if incarnation not in (None, stats.incarnation):  # its successor has its id
            yield DrainProgress(node, GONE)
            return
        incarnation = stats.incarnation
        yield DrainProgress(node, stats.state, stats.clients - stats.lingering, stats.lingering)
        if stats.state == DRAINED:
            return
        await anyio.sleep(READING_PAUSE)
