"""The sender of a bus with retained topics: what is published to them goes through the history."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from msgspec.structs import replace

from eventbus_core.concurrency.deadlines import Deadlines
from eventbus_core.errors import ConfigurationError, EventBusError, TransportUnavailable
from eventbus_core.history.appender import Appender, StreamQueue
from eventbus_core.history.stream_names import inbox_of, queue_stream, shown_name
from eventbus_core.model.event import Event, encode_unread
from eventbus_core.model.names import NODE_SIGN, check_address, check_topic, check_topics, topic_address
from eventbus_core.model.retention import Retention
from eventbus_core.options import BusOptions, check_seconds
from eventbus_core.routing.fanout import Wait
from eventbus_core.routing.sender import Headers, Sender, Sent, expiry, sent


class RetainingSender(Sender):
    """
    A sender that hands events for retained topics to an appender; :meth:`retain` is called before any other.

    A list of topics may hold none that is retained, and this node can append to so many of them only
    (:class:`LimitExceeded`).
    """

    def retain(self, options: BusOptions, appender: Appender, deadlines: Deadlines) -> None:
        """Retain topics by *options* from now on."""
        self._options = options
        self._appender = appender
        self._deadlines = deadlines
        self._publish_one = self._publish_retained

    async def publish_durably(
        self,
        source: str,
        topic: str | Sequence[str],
        data: object,
        headers: Headers | None,
        timeout: float | None = None,
        expires: float | None = None,
    ) -> str:
        """See :class:`Sender`."""
        if not isinstance(topic, str):
            self._check_not_retained(check_topics(topic))
            return await super().publish_durably(source, topic, data, headers, timeout, expires)
        retention = self._options.retain.of(check_topic(topic))
        if retention is None:
            return await super().publish_durably(source, topic, data, headers, timeout, expires)
        until = None if expires is None else expiry(expires)
        event, _ = self._event(source, topic_address(topic), topic, data, headers, None, until)
        await self._append(self._appender.queue(topic, retention), event, timeout)
        return event.id

    async def enqueue(
        self,
        source: str,
        queue: str,
        retention: Retention,
        type: str,
        data: object,
        headers: Headers | None,
        expires: float | None,
        timeout: float | None,
    ) -> str:
        """
        Send to *queue*, which is retained by *retention*, and wait until the history has the event.

        Raises:
            TransportUnavailable: there was no room, or the history has not confirmed it, within *timeout*.
            ConfigurationError: the history refuses the event.
            LimitExceeded: this node has appended to as many topics, clients and queues as it may.
        """
        event, _ = self.event(source, queue, type, data, headers, expires, timeout)
        stream = self._appender.queue(queue_stream(queue), retention)
        await self._append(stream, replace(event, origin=self._appender.node), timeout)
        return event.id

    async def _append(self, queue: StreamQueue, event: Event, timeout: float | None) -> None:
        """Accept *event*, and return once the history has it."""
        begun = monotonic()
        await self._wait_for_room(queue.topic, timeout)
        seconds = self._options.send_timeout if timeout is None else timeout
        number = self._appender.add(queue, encode_unread(event))
        with self._deadlines.within(
            max(0.0, begun + seconds - monotonic()),
            lambda: TransportUnavailable(
                f"the history has not confirmed the event to {event.target!r} within {seconds:g} s; "
                f"it is kept, and appended once the broker takes it"
            ),
        ):
            if not await self._appender.appended(queue, number):
                raise ConfigurationError(
                    f"the history refuses the event to {event.target!r}; see the log for the reason"
                )

    def _publish_retained(self, topic: str, event: Event, size: int, timeout: float | None = None) -> Wait:
        retention = self._options.retain.of(topic)
        if retention is None:
            return self._fanout.publish(topic, event, size, timeout)
        return self._accept(self._appender.queue(topic, retention), event, timeout)

    def _publish_each(
        self,
        source: str,
        topics: list[str],
        data: object,
        headers: Headers | None,
        timeout: float | None,
        until: float | None,
    ) -> Sent:
        self._check_not_retained(topics)
        return super()._publish_each(source, topics, data, headers, timeout, until)

    def _check_not_retained(self, topics: Sequence[str]) -> None:
        if retained := [topic for topic in topics if self._options.retain.of(topic) is not None]:
            raise EventBusError(f"topic {retained[0]!r} is retained: publish to it alone, not with others")

    def _accept(self, queue: StreamQueue, event: Event, timeout: float | None) -> Wait:
        encoded = encode_unread(event)
        if not self._appender.has_room():
            return self._accept_later(queue, encoded, timeout)
        self._appender.add(queue, encoded)
        return None

    async def _accept_later(self, queue: StreamQueue, encoded: bytes, timeout: float | None) -> None:
        await self._wait_for_room(queue.topic, timeout)
        self._appender.add(queue, encoded)

    async def _wait_for_room(self, topic: str, timeout: float | None) -> None:
        with self._deadlines.until_accepted(shown_name(topic), timeout):
            while not self._appender.has_room():
                await self._appender.wait_for_room()


class ClientRetainingSender(RetainingSender):
    """A :class:`RetainingSender` of a bus that retains clients: what is sent to them goes through the history too."""

    def send(
        self,
        source: str,
        target: str,
        type: str,
        data: object,
        headers: Headers | None,
        expires: float | None = None,
        timeout: float | None = None,
    ) -> Sent:
        """
        See :class:`Sender`. A retained client need not be held by a node.

        Raises:
            LimitExceeded: this node has appended to as many topics and clients as it may.
        """
        target = check_address(target)
        retention = None if target[:1] == NODE_SIGN else self._options.retain_clients.of(target)
        if retention is None:
            return super().send(source, target, type, data, headers, expires, timeout)
        check_seconds("timeout", timeout)
        until = None if expires is None else expiry(expires)
        event, _ = self._event(source, target, check_topic(type), data, headers, None, until)
        queue = self._appender.queue(inbox_of(target), retention)
        return sent(event, self._accept(queue, replace(event, origin=self._appender.node), timeout))
