"""Queues: consumers share the events, each of which one of them handles."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self
from uuid import uuid4

from eventbus_core.api.client import Client
from eventbus_core.errors import BusClosed, EventBusError, NodeDraining, OptionError
from eventbus_core.mailbox.handler import HandlerFunction
from eventbus_core.model.event import Event
from eventbus_core.model.names import check_client
from eventbus_core.model.quoting import quote
from eventbus_core.node.node import LocalNode
from eventbus_core.node.queue_consumer import QueueConsumer
from eventbus_core.node.queue_receiver import QueueReceiver
from eventbus_core.routing.sender import Headers, Sent

CONSUMERS: Final = "queue"
"""The tenant of the clients that consume."""


class QueueBus(Protocol):
    """What a queue uses of its bus; after a fork its node is another one."""

    _node: LocalNode
    _source: str


class Queue:
    """
    A queue, as this node sends to it and consumes from it; made by :meth:`Bus.queue`.

    Each event goes to one consumer of all nodes. The node that sent it keeps it until the consumer has handled it, and
    gives it to another if the consumer, or its node, is gone before. So an event is handled once; and a second time
    only if a consumer ended, or counted as dead, while it had the event: the second consumer gets it with the same
    ``event.id``. An event that the sender closes with, or that expires, is reported to its ``on_undeliverable``. If the
    process of the sender is killed, its events that were not handed out are lost with it.

    If the queue is retained (``retain_queues``), the broker keeps each event until it is handled, within the retention;
    it survives every process. An event may be handled a second time also if the node that dispatches the queue died.

    Attributes:
        name: of the queue.
    """

    __slots__ = ("_bus", "name")

    def __init__(self, bus: QueueBus, name: str) -> None:
        self.name = check_client(name, "queue")
        self._bus = bus

    @property
    def _node(self) -> LocalNode:
        return self._bus._node

    async def send(
        self,
        type: str,
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """
        Send an event to one consumer; it waits, in this process, until one takes it.

        As many may wait as ``mailbox_events`` and ``mailbox_size`` say, those included that consumers work on. Then
        this waits for at most *timeout* seconds, by default ``send_timeout``. After *expires* seconds the event is not
        handed out any more but reported; the clocks of both hosts count.

        If the queue is retained, this waits until the broker has the event, and not for consumers.

        Returns:
            The id of the event, by which :class:`Undeliverable` names it.

        Raises:
            TransportUnavailable: there was no room in time; the event was not accepted. Or the queue is retained, and
                the broker has not confirmed the event in time: then it is kept once the broker takes it.
            LimitExceeded: the queue is retained, and this node sent to ``max_retained_topics`` lately.
            ConfigurationError: the queue is retained, and the broker refuses the event.
        """
        sent = self._send(type, data, headers, expires, timeout)
        return sent if isinstance(sent, str) else await sent

    def _send(
        self, type: str, data: object, headers: Headers | None, expires: float | None, timeout: float | None
    ) -> Sent:
        history = self._node.history
        if history is not None and (retention := history.queues.retention(self.name)) is not None:
            return history.queues.sender.enqueue(
                self._bus._source, self.name, retention, type, data, headers, expires, timeout
            )
        return self._node.queues.send(self._bus._source, self.name, type, data, headers, expires, timeout)

    @property
    def waiting(self) -> int:
        """
        How many events that this node sent to the queue no consumer is known to have handled.

        Of a retained queue: those that this node has read to hand them out; 0 on all nodes but the one that does that.
        """
        return self._node.queues.waiting_for(self.name)

    def consume(self, function: HandlerFunction | None = None, *, concurrency: int = 1) -> Consumer:
        """
        Return a consumer that calls *function*, plain or async, for events within ``async with``.

        It takes another event only when *function* has finished one, so that none waits for a busy consumer while
        another is free; with *concurrency*, up to so many async calls run at a time. That an event was handled means
        that the function returned, or raised: that is logged, counted and told to ``on_error``, and the event does not
        come again.

        Without a function, :meth:`Consumer.receive`, or iterating over the consumer, returns the events. It takes an
        event only while a call waits; with a *concurrency* above 1, it takes up to so many before calls come for them.
        That costs far less. If no call comes for up to a second, it leaves them to other consumers.

        Raises:
            OptionError: *concurrency* is no whole number of at least 1.
        """
        if type(concurrency) is not int or concurrency < 1:
            raise OptionError.bad_value("concurrency", concurrency, "a whole number of at least 1")
        return Consumer(self._node, self.name, function, concurrency)

    def __repr__(self) -> str:
        return f"<Queue {self.name!r} of node {self._node.id!r}>"


class Consumer:
    """
    A consumer of a queue; open within ``async with``, or from :meth:`open` to :meth:`aclose`.

    Attributes:
        name: of the client that it holds, by which ``eventbus clients`` shows it.
    """

    __slots__ = ("_client", "_consumer", "_node", "_receiver", "name")

    def __init__(self, node: LocalNode, queue: str, function: HandlerFunction | None, concurrency: int) -> None:
        self.name = f"{CONSUMERS}/{quote(queue)}.{uuid4().hex[:12]}"
        self._node = node
        self._receiver: QueueReceiver | None = None
        self._consumer: QueueConsumer
        if function is None:
            self._consumer = self._receiver = node.consumers.make_receiver(queue, self.name, concurrency)
        else:
            self._consumer = node.consumers.make(queue, self.name, function, concurrency)
        take = self._consumer.take
        self._client = Client(node, self.name, takeover=True, linger=0.0, handler=take, overflow="drop_newest")

    async def open(self) -> Self:
        """
        Take events from now on; close with :meth:`aclose`. Any task may call either.

        Raises:
            BusClosed: it was opened before, or another task closed it meanwhile.
            ClientTakenOver: another node claimed its client meanwhile.
            TransportUnavailable: the directory cannot be reached.
            LimitExceeded: this node holds as many clients as it may.
            NodeDraining: the node drains.
        """
        if self._client._entered or self._client._stopped:
            raise BusClosed(f"consumer {self.name!r} cannot be opened again; make another")
        await self._client.open()
        self._client._check_held()  # it may have ended since its claim, if it is retained
        self._node.consumers.open(self._consumer)
        return self

    async def receive(self) -> Event:
        """
        Return the next event. It counts as handled then: it does not come again, whatever becomes of this process.

        Several tasks may call this. If a call is cancelled as its event comes, another one gets it.

        Raises:
            EventBusError: the consumer calls a function with its events.
            BusClosed, ClientTakenOver, NodeDraining: the consumer has ended.
        """
        if self._receiver is None:
            raise EventBusError(f"consumer {self.name!r} calls a function with its events; they cannot be received")
        self._node.state.check_place()
        return await self._receiver.receive(self._check_open)

    def _take_now(self) -> Event | None:
        """Return an event that was taken ahead, if any; from any thread."""
        return None if self._receiver is None else self._receiver.take_now(self._node.entry.call_soon)

    def _take_back(self, event: Event) -> None:
        """Give *event*, which :meth:`receive` returned, to another call."""
        if self._receiver is not None:
            self._receiver.take_back(event)

    def _check_open(self) -> None:
        if self._client._entered and not self._client._stopped:
            self._client._check_held()
            if self._consumer.is_open:
                return
            if self._node.state.draining:
                raise NodeDraining(self.name, self._node.id, 0.0)
        raise BusClosed(f"consumer {self.name!r} is not open: open it with 'async with queue.consume()'")

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        return self.receive()

    async def aclose(self) -> None:
        """
        Take no more events, and return once those that were taken are handled; does nothing on successive calls.
        The function itself must not wait for this: it would wait for its own end.

        If this is cancelled, other consumers get them; the function may be running still. So it is if a cancellation or
        an exit of the program ends the block: then nothing is waited for.
        """
        self._node.state.check_place()
        self._consumer.close()
        try:
            with suppress(BusClosed), self._node.deadlines.within(None):
                await self._consumer.finished()
        finally:
            await self._client.aclose()

    async def ended(self) -> EventBusError:
        """Return why the consumer takes nothing any more, once that is so; see :meth:`Client.ended`."""
        return await self._client.ended()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):
            await self.aclose()
        else:
            self._node.state.check_place()
            self._consumer.close()
            await self._client.aclose()

    def __repr__(self) -> str:
        return f"<Consumer {self.name!r} of queue {self._consumer.queue!r}>"
