"""
The directory of a transport that has none: every node is asked, and the answers of all are the record.

Each node knows what it holds. Who looks for a client, or claims one, asks everybody and waits until all nodes that are
known to live have answered, or for ``ASK_TIMEOUT`` once the broker has the question: a node that does not answer by
then is taken to hold nothing. If it turns out later that two hold a client, who claimed it last keeps it. Nodes say
regularly that they live; who has not for the length of its lease is dead. Numbers come from the clock, and grow beyond
whatever was heard of.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import anyio
import attrs

from eventbus_core.errors import NamespaceMismatch, NodeAlreadyPresent
from eventbus_core.event import Event
from eventbus_core.inquiry import (
    ALIVE,
    ANSWER,
    FOLLOWED,
    GONE,
    PART,
    QUESTION,
    SUPERSEDED,
    Alive,
    Answer,
    Poll,
    Question,
    Superseded,
    clock,
)
from eventbus_core.names import is_identifier, is_other_node
from eventbus_core.neighbours import Neighbours
from eventbus_core.transport import Claim, Directory, Node, Owner, Terms

ASK_TIMEOUT: Final = 0.5
QUESTIONS: Final = 3
INTRODUCTION: Final = 0.3
"""Seconds that a node which enters gives the others to say that they are there."""


class AskingDirectory(Directory):
    """
    A directory by asking; made by the core for transports whose own is ``None``.

    Attributes:
        tell_all, tell_node: send one of the bus' own events; set by the node.
        told: returns once the broker has taken what was told all before; set likewise.
        met: set once everybody who is there is known, and knows us.
        superseded: called with a client that is or will be ours, and by what epoch which node takes it; set likewise.
        claimed: called with a client that another node claims, before that has our answer, and with the owner that it
            will have, or ``None`` if somebody else may keep it; set likewise.
        unsure: called when we asked who else holds what we hold, and not all who live have answered; set likewise.
    """

    def __init__(self, namespace: str, node: str) -> None:
        self.tell_all: Callable[[str, object], None]
        self.tell_node: Callable[[str, str, object], None]
        self.superseded: Callable[[str, int, str], None]
        self.claimed: Callable[[str, Owner | None], None]
        self.told: Callable[[], Awaitable[None]]
        self.unsure: Callable[[], None]
        self.met = anyio.Event()
        self._namespace = namespace
        self._me = Alive(node, 0, 0.0, 0, 0)
        self._last = 0
        self._held: dict[str, int] = {}
        self._claiming: dict[str, int] = {}
        self._taking: set[str] = set()  # of these, those that will be ours whoever holds them
        self._taken: dict[str, Owner] = {}  # and those that we held, which another took over meanwhile
        self._others = Neighbours()
        self._polls: dict[int, Poll] = {}
        self._taken_by: NodeAlreadyPresent | NamespaceMismatch | None = None
        self._present = self._introduced = False

    def take(self, event: Event) -> None:
        """Take what other nodes ask, answer or say of themselves."""
        if event.type == SUPERSEDED:
            superseded = event.decode(Superseded)
            self.superseded(superseded.client, superseded.epoch, superseded.node)
        elif event.type == QUESTION:
            self._answer(event.decode(Question))
        elif event.type == ANSWER:
            self._take_answer(event.decode(Answer))
        elif event.type == GONE:
            self._others.see_off(event.decode(Alive))
        else:
            self._heard(event.decode(Alive))

    def namesake(self, incarnation: int) -> None:
        """Take note of another node with our id: who came first stays."""
        if self._present and 0 < incarnation < self._me.incarnation:
            self._taken_by = NodeAlreadyPresent(self._me.node)
        elif self._introduced:
            self.tell_all(ALIVE, self._me)

    async def introduce(self) -> None:
        """
        Find out who is there. Until this has returned, our frames must bear no incarnation.

        Raises:
            NodeAlreadyPresent, NamespaceMismatch: somebody is who does not suffer us.
        """
        for _ in range(QUESTIONS):  # a question may be lost, and nothing is repaired yet
            await self._poll([""], timeout=INTRODUCTION / QUESTIONS, patient=True)
        self._check()
        self._introduced = True

    async def greet(self) -> None:
        """Return once everybody who is there knows us."""
        await self._poll([""])
        self.met.set()

    async def look_for(self, node: str) -> None:
        """Return once *node* is known, or does not answer."""
        for _ in range(QUESTIONS):
            if any(alive.node == node for alive, _ in self._others.alive()):
                return
            await self._poll([""], timeout=INTRODUCTION, patient=True)

    async def enter(self, node: str, lease: float, terms: Terms) -> int:
        self._me = Alive(node, self._next(), lease, terms.wire_version, terms.lanes)
        self._present = True
        if self._introduced:
            self._others.clear()
            await self._poll([""], timeout=INTRODUCTION, patient=True)
        return self._me.incarnation

    async def renew(self) -> bool:
        self._check()
        if not self._others.forget_dead():
            return False  # all whom we knew have fallen silent: it may be us who was cut off
        if self._present:
            self.tell_all(ALIVE, self._me)
        return self._present

    async def leave(self) -> None:
        if self._present:
            self._present = False
            self._held.clear()
            if self._introduced:
                self.tell_all(GONE, self._me)

    async def claim(self, clients: Sequence[str], takeover: bool) -> Sequence[Claim | Owner]:
        return [claim for part in _parts(clients) for claim in await self._claim(part, takeover, QUESTIONS)]

    async def _claim(self, clients: Sequence[str], takeover: bool, tries: int) -> Sequence[Claim | Owner]:
        epochs = [self._next() for _ in clients]
        self._claiming.update(zip(clients, epochs, strict=True))
        self._taking.update(clients if takeover else ())
        try:
            # Alone, as far as we know, we may be the one who was cut off: then it takes a while to hear of others.
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
                        self.tell_node(node, SUPERSEDED, Superseded(claim.client, claim.epoch, self._me.node))
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
        return [owner for part in _parts(clients) for owner in await self._locate(part)]

    async def _locate(self, clients: Sequence[str]) -> Sequence[Owner | None]:
        owners = (await self._poll(clients)).owners()
        for client in clients:
            mine = self._claiming[client] if client in self._taking else self._held.get(client)
            if mine is not None and (client not in owners or owners[client].epoch < mine):
                owners[client] = self._mine(mine)
        return [owners.get(client) for client in clients]

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
        timeout: float = ASK_TIMEOUT,
        *,
        patient: bool = False,
    ) -> Poll:
        """Ask all nodes who holds *clients*, or any if there are none; if *patient*, wait for those not known too."""
        number = self._next()
        poll = self._polls[number] = Poll()
        try:
            me = self._me if self._introduced else attrs.evolve(self._me, incarnation=0)
            self.tell_all(QUESTION, Question(me, number, list(clients), epochs, takeover))
            with anyio.move_on_after(timeout) as telling:
                await self.told()
            with anyio.move_on_after(timeout):
                while patient or not self._others.all_in(poll.answers):
                    await poll.more.wait()
            poll.complete = not telling.cancelled_caught and self._others.all_in(poll.answers)
        finally:
            del self._polls[number]
        return poll

    def _answer(self, question: Question) -> None:
        self._heard(question.me)
        if not is_other_node(question.me.node, self._me.node):
            return
        asked = question.clients or list(self._held)
        held = {client: self._held[client] for client in asked if client in self._held}
        claiming = {client: self._claiming[client] for client in question.clients if client in self._claiming}
        if question.epochs is None:
            held |= {client: epoch for client, epoch in claiming.items() if client in self._taking}
        for client, epoch in zip(question.clients, question.epochs or (), strict=False):
            owner = Owner(question.me.node, question.me.incarnation, epoch)
            self.claimed(client, owner if question.takeover else None)
            if question.takeover and self._held.get(client, epoch) < epoch:
                del self._held[client]
                if client in self._claiming:
                    self._taken[client] = owner
        for part in _parts(list(held))[:-1]:
            some = {client: held.pop(client) for client in part}
            self.tell_node(question.me.node, ANSWER, Answer(self._me, question.number, some, {}, more=True))
        self.tell_node(question.me.node, ANSWER, Answer(self._me, question.number, held, claiming))

    def _take_answer(self, answer: Answer) -> None:
        """Count *answer*; if it comes when we have given up waiting for it, settle who keeps what both of us hold."""
        self._heard(answer.me)
        if not is_other_node(answer.me.node, self._me.node):
            return
        if poll := self._polls.get(answer.number):
            poll.add(answer)
            return
        for client, theirs in (answer.claiming | answer.held).items():
            ours = self._held.get(client, theirs)
            if theirs < ours:
                self.tell_node(answer.me.node, SUPERSEDED, Superseded(client, ours, self._me.node))
            elif theirs > ours and client in answer.held:
                self.superseded(client, theirs, answer.me.node)

    def _heard(self, alive: Alive) -> None:
        """Take note of a node that lives; if it is in our place, or of other terms, one of us has to go."""
        me = self._me
        if alive == me or not alive.incarnation or not self._present or not is_identifier(alive.node):
            return
        if alive.node == me.node:
            self.namesake(alive.incarnation)
        elif (alive.wire_version, alive.lanes) != (me.wire_version, me.lanes):
            if alive.incarnation < me.incarnation:
                self._taken_by = NamespaceMismatch(self._namespace, "a lane count of", alive.lanes, me.lanes)
        elif (new := self._others.hear(alive)) is not None:
            self._follow(alive.incarnation)
            if self._introduced and new:
                self.tell_node(alive.node, ALIVE, me)

    def _mine(self, epoch: int) -> Owner:
        return Owner(self._me.node, self._me.incarnation, epoch)

    def _check(self) -> None:
        if self._taken_by is not None:
            raise self._taken_by

    def _follow(self, stamp: int) -> None:
        """Let our next numbers be greater than *stamp*, unless that is so far ahead that others might refuse them."""
        if stamp <= clock() + FOLLOWED:
            self._last = max(self._last, stamp)

    def _next(self) -> int:
        self._last = max(self._last + 1, clock())
        return self._last


def _parts(clients: Sequence[str]) -> list[Sequence[str]]:
    return [clients[first : first + PART] for first in range(0, len(clients), PART)]
