"""What nodes without a directory ask and tell each other, and what the answers to a question add up to."""

from __future__ import annotations

from collections.abc import Mapping
from time import time_ns
from typing import Annotated, Final

import anyio
import attrs
import msgspec

from eventbus_core.transport import Owner

ALIVE: Final = "$sys.alive"
GONE: Final = "$sys.gone"
QUESTION: Final = "$sys.question"
ANSWER: Final = "$sys.answer"
SUPERSEDED: Final = "$sys.superseded"

Stamp = Annotated[int, msgspec.Meta(ge=0, le=2**61)]
"""A number that grows beyond whatever was heard of, if that is credible."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]

FOLLOWED: Final = 10 * 366 * 86_400 * 10**6
"""How far ahead of our clock, in microseconds, a stamp may be for ours to go beyond it: a forged one must not take them
out of the range that others can read."""
PART: Final = 1000
"""Of so many clients a question or an answer may be, lest it is larger than a frame."""


def clock() -> int:
    """Return the microseconds from which stamps are made."""
    return time_ns() // 1000


@attrs.frozen
class Alive:
    """What a node says of itself."""

    node: str
    incarnation: Stamp
    lease: Seconds
    wire_version: int
    lanes: int


@attrs.frozen
class Question:
    """Who holds *clients*, or any if there are none; a claim says by which *epochs* it takes them over."""

    me: Alive
    number: Stamp
    clients: list[str]
    epochs: list[Stamp] | None = None
    takeover: bool = False


@attrs.frozen
class Answer:
    """What a node holds of what it was asked for, with its epochs, or a part of it if there is *more* to come."""

    me: Alive
    number: Stamp
    held: dict[str, Stamp]
    claiming: dict[str, Stamp]
    more: bool = False


@attrs.frozen
class Superseded:
    """What a node tells those who hold or claim *client* by smaller epochs, beside the one that it took it from."""

    client: str
    epoch: Stamp
    node: str


class Poll:
    """
    A question that is under way.

    Attributes:
        answers: of the nodes that have told all, by node.
        more: set when the next one comes.
        complete: whether all who live have given theirs.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self._parts: dict[str, Answer] = {}
        self.complete = False
        self.more = anyio.Event()

    def holders(self, client: str) -> set[str]:
        """Return the nodes that hold or claim *client*."""
        return {node for node, answer in self.answers.items() if client in answer.held or client in answer.claiming}

    def add(self, answer: Answer) -> None:
        """Count *answer*, and wake those who wait for more."""
        if before := self._parts.pop(answer.me.node, None):
            answer.held.update(before.held)
        if answer.more:
            self._parts[answer.me.node] = answer
            return
        self.answers[answer.me.node] = answer
        self.more.set()
        self.more = anyio.Event()

    def owners(self) -> dict[str, Owner]:
        """Return who holds the clients that were asked for, among the nodes that answered."""
        owners: dict[str, Owner] = {}
        for answer in self.answers.values():
            for client, epoch in answer.held.items():
                if client not in owners or owners[client].epoch < epoch:
                    owners[client] = Owner(answer.me.node, answer.me.incarnation, epoch)
        return owners

    def winners(self, ours: Mapping[str, int], *, takeover: bool) -> dict[str, Owner]:
        """
        Return the owners, counting those who claim the same at the same time as we do by the epochs *ours*.

        By takeover the last one wins, else the first.
        """
        owners = self.owners()
        rivals: dict[str, list[Owner]] = {}
        for answer in self.answers.values():
            for client, epoch in answer.claiming.items():
                if client in ours and (takeover or (client not in owners and epoch < ours[client])):
                    rivals.setdefault(client, []).append(Owner(answer.me.node, answer.me.incarnation, epoch))
        for client, claims in rivals.items():
            held = [owners[client]] if client in owners else []
            owners[client] = (max if takeover else min)(held + claims, key=lambda claim: claim.epoch)
        return owners
