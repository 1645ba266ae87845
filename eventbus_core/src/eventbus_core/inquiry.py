"""What nodes without a directory ask and tell each other, and what the answers to a question add up to."""

from __future__ import annotations

from collections.abc import Mapping
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
"""A number that grows beyond whatever was heard of: a forged one leaves room for those that follow it in a frame."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


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
    """What a node holds of what it was asked for, with its epochs."""

    me: Alive
    number: Stamp
    held: dict[str, Stamp]
    claiming: dict[str, Stamp]


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
        answers: so far, by node.
        more: set when the next one comes.
        complete: whether all who live have given theirs.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.complete = False
        self.more = anyio.Event()

    def holders(self, client: str) -> set[str]:
        """Return the nodes that hold or claim *client*."""
        return {node for node, answer in self.answers.items() if client in answer.held or client in answer.claiming}

    def add(self, answer: Answer) -> None:
        """Count *answer*, and wake those who wait for more."""
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
