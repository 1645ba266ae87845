"""
What takes a word with the directory, and so must not hold up the reader: events that reached a node which does not
hold their client go after it, and who does not answer is looked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Final, NamedTuple

import anyio
from msgspec.structs import replace

from eventbus_core.errors import EventBusError
from eventbus_core.event import Event
from eventbus_core.incoming import Ticket
from eventbus_core.link import RETRY_PAUSE
from eventbus_core.log import get_logger
from eventbus_core.names import NODE_SIGN
from eventbus_core.outgoing import Outgoing
from eventbus_core.queue import Queue
from eventbus_core.refusals import STALE, Refusals
from eventbus_core.routing import MOVED, Moved, Router
from eventbus_core.sessions import Sessions
from eventbus_core.transport import Node, Owner
from eventbus_core.wire import Header

logger = get_logger("eventbus")

MAX_HOPS: Final = 2
MAX_STRAYS: Final = 100_000
"""Events of handles closed here that may wait for the directory's word; those of other nodes are bounded by credit."""
DOUBT_EVERY: Final = 0.5
MAX_DOUBTED: Final = 1000

CLIENT_GONE: Final = "client gone"
NODE_UNREACHABLE: Final = "node unreachable"
NODE_DEAD: Final = "node dead"
TOO_MANY_HOPS: Final = "too many hops"


class Stray(NamedTuple):
    """An event that reached a node which does not hold its client; *origin* is the node that accepted it."""

    event: Event
    origin: str
    ticket: Ticket | None


class Errands:
    """
    Sends strays after their clients, and finds out which nodes are gone.

    Attributes:
        deliveries: of strays whose client is here after all.
        forwarded: events passed on to another node.
    """

    def __init__(self, router: Router, sessions: Sessions, refusals: Refusals) -> None:
        self.deliveries = self.forwarded = 0
        self._router = router
        self._sessions = sessions
        self._refusals = refusals
        self._node = router.node
        self._options = router.options
        self._outbox = router.outbox
        self._ownership = router.ownership
        self._clients = router.ownership.clients
        self._directory = router.directory
        self._strays: deque[Stray] = deque()
        self._suspects: set[str] = set()
        self._roll_call_at = monotonic() + self._options.lease
        self._absent: set[str] = set()  # when the roll was called last
        self._doubted: set[str] = set()  # nodes that may not have begun anew, as a forged frame said
        self._doubt_at = 0.0
        self._work = anyio.Event()
        self._progress = anyio.Event()
        sessions.on_left = self._on_left
        sessions.on_stale = self._on_stale

    def tend(self) -> None:
        """Look once a lease who is still there."""
        if self._is_to_look():
            self._work.set()

    def suspect(self, queue: Queue) -> None:
        """Find out whether the node of *queue* is still there, as it does not take its events."""
        if queue.node is not None:
            self._router.routes.resettle(queue)
            self._suspects.add(queue.node)
            self._work.set()

    def stray(self, event: Event, sender: str | None) -> None:
        """Send *event*, which came from *sender*, after its client: it is here no more."""
        origin = event.accepted_by(sender or self._node)
        if not self._ownership.entered or len(self._strays) >= MAX_STRAYS:
            self._router.report(event, origin, CLIENT_GONE)
        else:
            self.add([Stray(event, origin, None)])

    def add(self, strays: Sequence[Stray]) -> None:
        """Send *strays* of a frame after their clients."""
        if strays:
            self._strays.extend(strays)
            self._work.set()

    async def settled(self) -> None:
        """Return once all strays are on their way or reported."""
        while self._strays:
            await self._progress.wait()

    async def run(self) -> None:
        """Send strays after their clients, and find out who is gone; for ever."""
        while True:
            if not self._strays and not self._is_to_look():
                self._work = anyio.Event()
                await self._work.wait()
            try:
                if self._is_to_look():
                    await self._look_who_is_there()
                if self._strays:
                    await self._redirect(self._strays)
                self._progress.set()
                self._progress = anyio.Event()
            except EventBusError as error:
                logger.debug("the directory does not answer: %s", error)
                await anyio.sleep(RETRY_PAUSE)

    def pass_on(self, event: Event, origin: str, owner: Owner) -> None:
        """Forward *event*, accepted by *origin*, to the node that owns its client, and tell *origin* of it."""
        self.forwarded += 1
        self._router.forward(owner.node, replace(event, hops=event.hops + 1, origin=origin, epoch=owner.epoch))
        if origin not in (self._node, owner.node):
            self._router.tell_node(origin, MOVED, Moved(event.target, owner))

    async def _redirect(self, strays: deque[Stray]) -> None:
        """Send each of *strays* to the present owner of its client, or report to its sender."""
        clients = list(dict.fromkeys(s.event.target for s in strays if not s.event.target.startswith(NODE_SIGN)))
        owners = dict(zip(clients, await self._directory.locate(clients), strict=True)) if clients else {}
        if any(owner and owner.node == self._node for owner in owners.values()):
            await self._ownership.settled()
        doubtful = self._router.doubtful()
        for _ in range(len(strays)):
            stray = strays.popleft()
            owner = owners.get(stray.event.target)
            is_known = stray.event.target in owners and not (owner is None and doubtful)
            if is_known or stray.event.target.startswith(NODE_SIGN):
                self._redirect_one(stray, owner)
            else:
                strays.append(stray)
        if strays and doubtful:
            await anyio.sleep(RETRY_PAUSE)

    def _redirect_one(self, stray: Stray, owner: Owner | None) -> None:
        event, origin, ticket = stray
        holding = self._clients.get(event.target)
        if owner is not None and owner.node == self._node and holding is not None and not holding.mailbox.closed:
            self.deliveries += 1
            named = event if ticket is not None else replace(event, origin=origin)
            holding.mailbox.put([named], len(memoryview(event.raw)), ticket)
            return
        if ticket is not None:
            ticket.settle(1)
        if owner is None or owner.node == self._node:
            reason = NODE_UNREACHABLE if event.target.startswith(NODE_SIGN) else CLIENT_GONE
            self._router.report(event, origin, reason)
        elif event.hops >= MAX_HOPS:
            self._router.report(event, origin, TOO_MANY_HOPS)
        else:
            self._router.routes.remember(event.target, owner)
            self.pass_on(event, origin, owner)

    def _is_to_look(self) -> bool:
        now = monotonic()
        return bool(self._suspects) or now >= self._roll_call_at or (bool(self._doubted) and now >= self._doubt_at)

    async def _look_who_is_there(self) -> None:
        """Give up on suspects that are gone, and on every node that was gone at two roll calls, a lease apart."""
        suspects, self._suspects = self._suspects, set()
        try:
            nodes = await self._directory.nodes()
        except EventBusError:
            self._suspects |= suspects
            raise
        self._settle_doubts(nodes)
        alive = {node.id for node in nodes}
        if self._node not in alive or self._router.doubtful():
            alive |= suspects | self._sessions.nodes()  # it has lost its memory; those who live will enter again
        if monotonic() >= self._roll_call_at:
            self._roll_call_at = monotonic() + self._options.lease
            absent = self._sessions.nodes() - alive
            suspects |= absent & self._absent
            self._absent = absent
        for node in suspects - alive:
            self._give_up(node)

    def _settle_doubts(self, nodes: Iterable[Node]) -> None:
        """Listen again to nodes in whose name a frame came of an incarnation that the directory never issued."""
        for node in nodes:
            if node.id in self._doubted:
                self._sessions.disown(node.id, node.incarnation)
        self._doubted.clear()
        self._doubt_at = monotonic() + DOUBT_EVERY

    def _on_stale(self, header: Header) -> None:
        self._refusals.note(STALE, f"a frame of {header.node} in its former incarnation {header.incarnation}")
        if len(self._doubted) < MAX_DOUBTED:
            self._doubted.add(header.node)
            self._work.set()

    def _give_up(self, node: str) -> None:
        """Forget *node*, which is dead, and report what it had not confirmed."""
        queue = self._outbox.known(node)
        if queue is not None and queue.later is not None:
            queue.later.append(lambda: self._give_up(node))  # what is under way comes back if nobody listened
            return
        self._router.routes.forget_node(node)
        self._sessions.forget(node)
        if queue is None:
            return
        sent, waiting = self._outbox.abandon(queue.session, queue.session.handled)
        if forgotten := self._outbox.forgotten(queue.session):
            self._router.undeliverable[NODE_DEAD] += forgotten
        for event in sent:  # perhaps it was handled; sent anywhere else, it could be so twice
            self._router.report(event, event.accepted_by(self._node), NODE_DEAD)
        for event in waiting:
            self.stray(event, None)

    def _on_left(self, session: Outgoing, first: int) -> None:
        """Send what a node that leaves has not taken in after the clients that it was for."""
        self._router.routes.forget_node(session.partition.partition(":")[2])
        for events in self._outbox.abandon(session, first):
            for event in events:
                self.stray(event, None)
