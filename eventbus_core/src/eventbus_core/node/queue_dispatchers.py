"""The retained queues that this node dispatches, or tries to: those that its consumers take events of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import anyio

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.errors import EventBusError
from eventbus_core.history.queue_dispatcher import Knowledge, QueueDispatcher
from eventbus_core.history.queue_streams import QueueStreams
from eventbus_core.mailbox.limits import MailboxLimits
from eventbus_core.mailbox.loss_markers import loss_of
from eventbus_core.mailbox.mailbox import Mailbox
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.model.quoting import quote
from eventbus_core.model.reports import Reason
from eventbus_core.model.retention import Retention
from eventbus_core.node.client_lifecycle import ClientLifecycle
from eventbus_core.node.queue_consumers import QueueConsumers

DISPATCHERS: Final = "queue-dispatcher"
"""The tenant of the clients that dispatch: the node that holds one dispatches its retained queue."""
CLAIM_EVERY: Final = 2.0
"""Seconds after which a node tries again to dispatch a queue that another one dispatches."""


class QueueDispatchers:
    """
    Has one of the nodes with consumers of a retained queue dispatch it.

    That is the node which holds a client named after the queue. It dispatches until it closes or its lease ends; the
    other nodes with consumers try to claim that client. Each claim begins with what the history knows to be handled.
    """

    def __init__(
        self,
        streams: QueueStreams,
        client_lifecycle: ClientLifecycle,
        limits: MailboxLimits[Mailbox],
        services: ServiceGroup,
        consumers: QueueConsumers,
    ) -> None:
        self._streams = streams
        self._client_lifecycle = client_lifecycle
        self._limits = limits
        self._services = services
        self._consumers = consumers
        self._served: set[str] = set()  # queues that this node dispatches or tries to
        self._active: dict[str, QueueDispatcher] = {}
        self._known: dict[str, Knowledge] = {}  # what the last dispatcher of each queue on this node knew
        self._withdrawn = self._over = False
        self._changed = Notifier()
        streams.vacant.connect(self._changed.notify)
        consumers.opened.connect(self._open)

    def withdraw(self) -> None:
        """Hand out nothing more."""
        self._withdrawn = True
        for dispatcher in self._active.values():
            dispatcher.withdraw()
        self._changed.notify()

    def regained(self, _clients: Sequence[HeldClient]) -> None:
        """Restart the dispatchers of queues that this node claimed again: another node may have dispatched them."""
        self._changed.notify()

    async def finish(self) -> None:
        """Have other nodes dispatch, once what was handed out is handled; after :meth:`withdraw`."""
        for dispatcher in list(self._active.values()):
            await dispatcher.finished()
        self._over = True
        self._changed.notify()
        while self._active:
            await self._changed.wait()

    def _open(self, queue: str) -> None:
        """Dispatch *queue*, of which this node has a consumer, if it is retained and no other node does."""
        retention = self._streams.retention(queue)
        if retention is not None and queue not in self._served:
            self._served.add(queue)
            self._services.start(partial(self._serve, queue, retention))

    async def _serve(self, queue: str, retention: Retention) -> None:
        while not self._withdrawn and self._consumers.consume(queue):
            held = self._client_of(queue)
            try:
                await self._client_lifecycle.claim(held, takeover=False)
            except EventBusError:  # another node dispatches it, or the directory cannot be reached
                with anyio.move_on_after(CLAIM_EVERY):
                    await self._changed.wait()
            else:
                await self._dispatch(queue, retention, held)
        self._served.discard(queue)

    def _client_of(self, queue: str) -> HeldClient:
        mailbox = Mailbox(self._limits, lambda: self._refuse(mailbox))
        return HeldClient(f"{DISPATCHERS}/{quote(queue)}", mailbox, self._changed.notify)

    def _refuse(self, mailbox: Mailbox) -> None:
        """Report what was sent to the client of a dispatcher, which handles nothing."""
        while (event := mailbox.next()) is not None:
            if loss_of(event) is None:
                self._limits.on_dropped([event], mailbox.sender, Reason.NO_HANDLER)

    async def _dispatch(self, queue: str, retention: Retention, held: HeldClient) -> None:
        """Dispatch *queue* for as long as this node holds *held* by this claim."""
        epoch = held.epoch

        def frozen() -> bool:
            return held.epoch != epoch or self._limits.frozen()

        self._consumers.dispatchers.add(held.name)
        former = self._known.get(queue)
        dispatcher = self._active[queue] = QueueDispatcher(queue, retention, self._streams, frozen, former)
        if self._withdrawn:
            dispatcher.withdraw()
        self._streams.dispatch(queue, dispatcher.wake)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(dispatcher.run)
                while held.ended is None and held.epoch == epoch and not self._over:
                    await self._changed.wait()
                group.cancel_scope.cancel()
            await self._client_lifecycle.release(held)
        finally:
            del self._active[queue]
            if (knowledge := dispatcher.knowledge) is not None:
                self._known[queue] = knowledge
            self._consumers.dispatchers.discard(held.name)
            dispatcher.close()
            self._streams.end_dispatch(queue)
            self._changed.notify()
