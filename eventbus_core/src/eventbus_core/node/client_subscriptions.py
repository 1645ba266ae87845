"""What clients are subscribed to: by their own handles, and by other code on any node."""

from __future__ import annotations

from functools import partial
from typing import Final

import attrs

from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.errors import ClientNotFound, EventBusError, LimitExceeded, RequestFailed
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.membership.ownership import Ownership
from eventbus_core.model.event import Event
from eventbus_core.model.names import check_client, check_pattern, node_address
from eventbus_core.node.joining import Joining
from eventbus_core.routing.locator import Locator
from eventbus_core.routing.sender import Sender
from eventbus_core.routing.subscriptions import Subscriptions

SUBSCRIBE: Final = "$sys.subscribe"
MAX_MOVES: Final = 3
"""How often a client may move while it is subscribed."""


@attrs.frozen
class SubscriptionChange:
    """Asks the node that holds *client* to subscribe it to *pattern*, or to unsubscribe it."""

    client: str
    pattern: str
    subscribed: bool


@attrs.frozen
class SubscriptionChanged:
    """The answer: whether the client was there, and the error if it could not be subscribed."""

    found: bool
    error: str = ""


class ClientSubscriptions:
    """Subscribes clients of this node, also when other nodes ask for it, and asks them for theirs."""

    def __init__(
        self,
        limit: int,
        channel: ControlChannel,
        ownership: Ownership,
        subscriptions: Subscriptions,
        locator: Locator,
        sender: Sender,
        joining: Joining,
        services: ServiceGroup,
    ) -> None:
        self._limit = limit
        self._channel = channel
        self._clients = ownership.clients
        self._subscriptions = subscriptions
        self._locator = locator
        self._sender = sender
        self._joining = joining
        self._services = services
        channel.on_query(SUBSCRIBE, self._take)

    async def subscribe(self, held: HeldClient, pattern: str) -> None:
        """
        Give *held*, a client of this node, the topics that match *pattern*; return once they arrive.

        Or once *held* has ended, or another call has unsubscribed it.

        Raises:
            InvalidName: *pattern* is none.
            LimitExceeded: the client or its node has as many patterns as it may.
            ConfigurationError: the broker refuses a lane of *pattern* until its configuration changes.
        """
        await self.join(held, check_pattern(pattern))

    async def join(self, held: HeldClient, pattern: str) -> None:
        """Do what :meth:`subscribe` does with a *pattern* that was checked, or is one of the bus itself."""
        patterns = held.patterns
        if len(patterns) >= self._limit and pattern not in patterns:
            raise LimitExceeded(
                f"client {held.name!r} cannot subscribe to {pattern!r} too",
                *("max_subscriptions", self._limit),
                hint="unsubscribe from some, use wildcards, or raise it",
            )
        if self._subscriptions.subscribe(pattern, held.mailbox):
            patterns[pattern] = 0
        waiting = patterns[pattern]
        if waiting is not None:
            patterns[pattern] = waiting + 1
        try:
            await self._joining.subscribed(pattern)
        except BaseException:
            if waiting := patterns.get(pattern):
                patterns[pattern] = waiting - 1
                if waiting == 1:  # else another call still waits for it, or has it
                    self.unsubscribe(held, pattern)
            raise
        if pattern in patterns:
            patterns[pattern] = None

    def unsubscribe(self, held: HeldClient, pattern: str) -> None:
        """Give *held* the topics that match *pattern* no more."""
        held.patterns.pop(pattern, None)
        self._subscriptions.unsubscribe(pattern, held.mailbox)

    async def change(self, client: str, pattern: str, timeout: float, *, subscribed: bool) -> None:
        """
        Subscribe or unsubscribe *client*, whichever node holds it.

        Raises:
            ClientNotFound: no node holds it.
            RequestFailed: its node cannot subscribe it, or is gone.
            RequestTimeout: its node did not answer within *timeout* seconds.
        """
        change = SubscriptionChange(check_client(client), check_pattern(pattern), subscribed)
        for _ in range(MAX_MOVES):
            if (held := self._clients.get(client)) is not None:
                if await self._apply(held, change):
                    return
                continue
            owner = await self._locator.locate(client)
            if owner is None:
                break
            target = node_address(owner.node)
            answer = await self._sender.ask(self._channel.address, target, SUBSCRIBE, change, timeout, None)
            changed = answer.decode(SubscriptionChanged)
            if changed.error:
                raise RequestFailed(client, changed.error)
            if changed.found:
                return
        raise ClientNotFound(client)

    async def _apply(self, held: HeldClient, change: SubscriptionChange) -> bool:
        """Do what *change* asks for; return whether this node still holds the client by *held*."""
        if change.subscribed:
            await self.subscribe(held, change.pattern)
        else:
            self.unsubscribe(held, change.pattern)
        return held.ended is None

    def _take(self, request: Event) -> None:
        change = request.decode(SubscriptionChange)
        self._services.start(partial(self._serve, request, change))

    async def _serve(self, request: Event, change: SubscriptionChange) -> None:
        held = self._clients.get(change.client)
        try:
            changed = SubscriptionChanged(found=held is not None and await self._apply(held, change))
        except EventBusError as error:
            changed = SubscriptionChanged(found=True, error=str(error))
        self._channel.answer(request, SUBSCRIBE, changed)
