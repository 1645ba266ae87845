"""
The directory of a transport that has none: every node is asked, and the replies of all are the record.

Each node knows what it holds. A node that looks for a client, or claims one, asks all nodes and waits until every live
node that it knows has replied, or for ``ASK_TIMEOUT`` once the broker has the query: a node that does not reply by then
counts as holding nothing. If two nodes turn out to hold one client, the later claim keeps it. Nodes send heartbeats; a
node without one for the length of its lease is dead. Numbers come from the clock, and grow beyond all that were heard.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

import anyio
import attrs

from eventbus_core.backend import Claim, Directory, Node, Owner, Terms
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import LANES_TERM, RETAIN_TERM, NamespaceMismatch, NodeAlreadyPresent, fresh_copy
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.peer_directory.messages import (
    CLIENT_SIZE,
    FOLLOWED,
    HEARTBEAT,
    LEAVING_NODE,
    MAX_PART,
    QUERY,
    QUERY_OVERHEAD,
    REPLY,
    SUPERSEDED,
    Heartbeat,
    Query,
    Reply,
    Superseded,
    clock,
)
from eventbus_core.membership.peer_directory.peers import Peers
from eventbus_core.membership.peer_directory.poll import Poll
from eventbus_core.model.event import Event
from eventbus_core.model.names import is_identifier, is_other_node

ASK_TIMEOUT: Final = 0.5
TRIES: Final = 3
WAIT_SLICES: Final = 2
"""Parts of a timeout. A process that stands still loses one; in the next it reads the replies that came meanwhile."""
INTRODUCTION: Final = 0.3
"""Seconds that a node which enters gives the others to say that they are there."""


class PeerDirectory(Directory):
    """
    A directory that asks the other nodes; made by the core for transports that have none.

    Attributes:
        met: set once every live node is known, and knows us.
        superseded: called with a client that is or will be ours, and by which epoch which node takes it.
        claimed: called with a client that another node claims, before that node has our reply, and with its owner from
            then on, or ``None`` if another node may keep it.
        unsure: called when not every live node has replied to a claim of clients that we hold.
    """

    def __init__(self, namespace: str, channel: ControlChannel, max_frame_size: int) -> None:
        self.met = anyio.Event()
        self.superseded: Signal[[str, int, str]] = Signal()
        self.claimed: Signal[[str, Owner | None]] = Signal()
        self.unsure: Signal[[]] = Signal()
        self._namespace = namespace
        self._part = min(MAX_PART, (max_frame_size - QUERY_OVERHEAD) // CLIENT_SIZE)
        self._channel = channel
        self._me = Heartbeat(channel.node, 0, 0.0, 0, 0)
        self._last = 0
        self._held: dict[str, int] = {}
        self._claiming: dict[str, int] = {}
        self._taking: set[str] = set()  # of these, those that will be ours, whichever node holds them
        self._taken: dict[str, Owner] = {}  # and those that we held, and that another node took over since
        self._others = Peers()
        self._polls: dict[int, Poll] = {}
        self._conflict: NodeAlreadyPresent | NamespaceMismatch | None = None
        self._present = self._introduced = False
        channel.on(HEARTBEAT, lambda message: self._heard(message.decode(Heartbeat)))
        channel.on(LEAVING_NODE, lambda message: self._others.forget(message.decode(Heartbeat)))
        channel.on_query(QUERY, lambda message: self._reply(message.decode(Query)))
        channel.on(REPLY, lambda message: self._take_reply(message.decode(Reply)))
        channel.on(SUPERSEDED, self._take_superseded)

    def namesake(self, incarnation: int) -> None:
        """Note that another node has our id: the one that came first stays."""
        if self._present and 0 < incarnation < self._me.incarnation:
            self._conflict = NodeAlreadyPresent(self._me.node)
        elif self._introduced:
            self._channel.send_all(HEARTBEAT, self._me)

    async def introduce(self) -> None:
        """
        Find out which nodes are there. Until this has returned, our frames must carry no incarnation.

        Raises:
            NodeAlreadyPresent, NamespaceMismatch: a live node has this id, or the namespace has other terms.
        """
        known: dict[str, Reply] = {}
        for _ in range(TRIES):  # a query may be lost, and nothing is repaired yet
            poll = await self._poll([""], timeout=INTRODUCTION / TRIES, patient=True, known=known)
            known.update(poll.replies)
        self._check()
        self._introduced = True

    async def greet(self) -> None:
        """Return once every live node knows us."""
        await self._poll([""])
        self.met.set()

    async def look_for(self, node: str) -> None:
        """Return once *node* is known, or does not reply."""
        for _ in range(TRIES):
            if any(alive.node == node for alive, _ in self._others.alive()):
                return
            await self._poll([""], timeout=INTRODUCTION, patient=True)

    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        self._me = Heartbeat(node, self._next(), lease, terms.wire_version, terms.lanes, terms.retain)
        self._present = True
        if self._introduced:
            self._others.clear()
            await self._poll([""], timeout=INTRODUCTION, patient=True)
        return self._me.incarnation

    async def renew(self) -> bool:
        self._check()
        if not self._others.forget_dead():
            return False  # every other node has fallen silent: it may be this one that was cut off
        if self._present:
            self._channel.send_all(HEARTBEAT, self._me)
        return self._present

    async def leave(self) -> None:
        if self._present:
            self._present = False
            self._held.clear()
            if self._introduced:
                self._channel.send_all(LEAVING_NODE, self._me)

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        return [claim for part in self._parts(clients) for claim in await self._claim(part, takeover, TRIES)]

    async def _claim(self, clients: Sequence[str], takeover: bool, tries: int) -> Sequence[Claim | Owner]:
        epochs = [self._next() for _ in clients]
        self._claiming.update(zip(clients, epochs, strict=True))
        self._taking.update(clients if takeover else ())
        try:
            # Alone, as far as we know, we may be the node that was cut off: then it takes a while to hear of others.
            patient = not takeover and not self._others.alive()
            poll = await self._poll(clients, epochs, takeover, patient=patient)
            owners = poll.winners(dict(zip(clients, epochs, strict=True)), takeover=takeover)
            for client, taken in self._taken.items():
                owners[client] = max(owners.get(client, taken), taken, key=lambda owner: owner.epoch)
            if not takeover and not poll.complete and not self._held.keys().isdisjoint(clients):
                self.unsure()
            claims = [
                await self._grant(client, epoch, owners.get(client), takeover, tries)
                for client, epoch in zip(clients, epochs, strict=True)
            ]
            for claim in claims:
                if isinstance(claim, Claim):
                    former = {claim.previous.node} if claim.previous is not None else set()
                    for node in poll.holders(claim.client) - former:
                        self._channel.send(node, SUPERSEDED, Superseded(claim.client, claim.epoch, self._me.node))
            return claims
        finally:
            for client, epoch in zip(clients, epochs, strict=True):
                if self._claiming.get(client) == epoch:  # else another claim of it has begun here
                    del self._claiming[client]
                    self._taken.pop(client, None)
                    self._taking.discard(client)

    async def _grant(self, client: str, epoch: int, owner: Owner | None, takeover: bool, tries: int) -> Claim | Owner:
        mine = self._held.get(client)
        if mine is not None and (owner is None or owner.epoch < mine):
            owner = self._mine(mine)
        elif mine is not None and not takeover:
            del self._held[client]  # it was taken over while we could not hear of it
        if owner is not None and not takeover:
            return owner
        if owner is not None and owner.epoch > epoch:  # its clock is ahead of ours
            self._follow(owner.epoch)
            if tries > 1:
                return (await self._claim([client], takeover, tries - 1))[0]
            epoch = self._next()
        self._held[client] = epoch
        return Claim(client, epoch, owner)

    async def release(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            if self._held.get(claim.client) == claim.epoch:
                del self._held[claim.client]

    async def locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        return [owner for part in self._parts(clients) for owner in await self._locate(part)]

    async def _locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        owners = (await self._poll(clients)).owners()
        for client in clients:
            mine = self._claiming[client] if client in self._taking else self._held.get(client)
            if mine is not None and (client not in owners or owners[client].epoch < mine):
                owners[client] = self._mine(mine)
        return [owners.get(client) for client in clients]

    async def confirm(self, claims: Sequence[Claim]) -> Sequence[bool]:
        """Answer from memory: a claim of another node has removed ours, or will do so once it arrives."""
        return [self._held.get(claim.client) == claim.epoch for claim in claims]

    async def nodes(self) -> Sequence[Node]:
        self._check()
        me = [Node(self._me.node, self._me.incarnation, self._me.lease)] if self._present else []
        return me + [Node(alive.node, alive.incarnation, left) for alive, left in self._others.alive()]

    async def clients(self, node: str | None = None) -> AsyncIterator[str]:
        owners = (await self._poll([])).owners()
        for client in self._held:
            owners[client] = self._mine(self._held[client])
        for client, owner in owners.items():
            if node in (None, owner.node):
                yield client

    async def _poll(
        self,
        clients: Sequence[str],
        epochs: list[int] | None = None,
        takeover: bool = False,
        timeout: float | None = None,
        *,
        patient: bool = False,
        known: Iterable[str] = (),
    ) -> Poll:
        """
        Ask all nodes which of *clients* they hold, or for all that they hold if there are none.

        If *patient*, wait for the whole *timeout*: nodes that we do not know yet may reply as well. Those in *known*
        do not reply, as far as the query can name them.
        """
        timeout = ASK_TIMEOUT if timeout is None else timeout
        number = self._next()
        poll = self._polls[number] = Poll()
        try:
            me = self._me if self._introduced else attrs.evolve(self._me, incarnation=0)
            named = list(known)[: self._part]
            self._channel.send_all(QUERY, Query(me, number, list(clients), epochs, takeover, named))
            with anyio.move_on_after(timeout) as telling:
                await self._channel.flushed()
            for _ in range(WAIT_SLICES):
                with anyio.move_on_after(timeout / WAIT_SLICES):
                    while patient or not self._others.all_in(poll.replies):
                        await poll.more.wait()
                    break
            poll.end(complete=not telling.cancelled_caught and self._others.all_in(poll.replies))
        finally:
            del self._polls[number]
        return poll

    def _reply(self, query: Query) -> None:
        self._heard(query.me, answered=True)
        if not is_other_node(query.me.node, self._me.node) or self._me.node in query.known:
            return
        asked = query.clients or list(self._held)
        held = {client: self._held[client] for client in asked if client in self._held}
        claiming = {client: self._claiming[client] for client in query.clients if client in self._claiming}
        if query.epochs is None:
            held |= {client: epoch for client, epoch in claiming.items() if client in self._taking}
        for client, epoch in zip(query.clients, query.epochs or (), strict=False):
            owner = Owner(query.me.node, query.me.incarnation, epoch)
            self.claimed(client, owner if query.takeover else None)
            if query.takeover and self._held.get(client, epoch) < epoch:
                del self._held[client]
                if client in self._claiming:
                    self._taken[client] = owner
        for part in self._parts(list(held))[:-1]:
            some = {client: held.pop(client) for client in part}
            self._channel.send(query.me.node, REPLY, Reply(self._me, query.number, some, {}, more=True))
        self._channel.send(query.me.node, REPLY, Reply(self._me, query.number, held, claiming))

    def _take_reply(self, reply: Reply) -> None:
        """Take in *reply*; if it comes too late, settle which of us keeps what both hold."""
        self._heard(reply.me)
        if not is_other_node(reply.me.node, self._me.node):
            return
        if poll := self._polls.get(reply.number):
            poll.add(reply)
            return
        for client, theirs in (reply.claiming | reply.held).items():
            ours = self._held.get(client, theirs)
            if theirs < ours:
                self._channel.send(reply.me.node, SUPERSEDED, Superseded(client, ours, self._me.node))
            elif theirs > ours and client in reply.held:
                self.superseded(client, theirs, reply.me.node)

    def _take_superseded(self, message: Event) -> None:
        superseded = message.decode(Superseded)
        self.superseded(superseded.client, superseded.epoch, superseded.node)

    def _heard(self, alive: Heartbeat, *, answered: bool = False) -> None:
        """Take in a heartbeat, which is *answered* or not; if it has our id or other terms, one of us has to go."""
        me = self._me
        if alive == me or not alive.incarnation or not self._present or not is_identifier(alive.node):
            return
        if alive.node == me.node:
            self.namesake(alive.incarnation)
        elif (alive.wire_version, alive.lanes) != (me.wire_version, me.lanes):
            if alive.incarnation < me.incarnation:
                self._conflict = NamespaceMismatch(self._namespace, LANES_TERM, alive.lanes, me.lanes)
        elif alive.retain != me.retain:
            if alive.incarnation < me.incarnation:
                self._conflict = NamespaceMismatch(self._namespace, RETAIN_TERM, alive.retain, me.retain)
        elif (new := self._others.hear(alive)) is not None:
            self._follow(alive.incarnation)
            if self._introduced and new and not answered:
                self._channel.send(alive.node, HEARTBEAT, me)

    def _mine(self, epoch: int) -> Owner:
        return Owner(self._me.node, self._me.incarnation, epoch)

    def _check(self) -> None:
        if self._conflict is not None:
            raise fresh_copy(self._conflict)

    def _follow(self, stamp: int) -> None:
        """Make our next numbers greater than *stamp*, unless that is so far ahead that others might refuse them."""
        if stamp <= clock() + FOLLOWED:
            self._last = max(self._last, stamp)

    def _next(self) -> int:
        self._last = max(self._last + 1, clock())
        return self._last

    def _parts(self, clients: Sequence[str]) -> list[Sequence[str]]:
        return [clients[first : first + self._part] for first in range(0, len(clients), self._part)]
