"""Sends of applications: checked, made into events, and handed to the router or the fan-out."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from time import time
from typing import Any, TypeAlias

from msgspec import Raw
from msgspec.structs import replace

from eventbus_core.errors import EventBusError, EventTooLarge, TopicNotRetained
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.membership.ownership import Ownership
from eventbus_core.model.event import (
    UNREADABLE,
    UNSENDABLE,
    Event,
    check_encoded,
    check_headers,
    encode_data,
    encode_unread,
)
from eventbus_core.model.event_ids import EventIds
from eventbus_core.model.names import EVERYONE, check_address, check_topic, check_topics, known_topic, topic_address
from eventbus_core.model.state import NodeState
from eventbus_core.model.topics import besides
from eventbus_core.options import check_seconds
from eventbus_core.routing.fanout import FanOut, Wait
from eventbus_core.routing.requests import Requests
from eventbus_core.routing.router import Router
from eventbus_core.routing.table import Route, RoutingTable

Headers: TypeAlias = Mapping[str, str]
Sent: TypeAlias = str | Coroutine[Any, Any, str]
"""The id of an event that was accepted; or a coroutine that returns it once the event is accepted."""


class Sender:
    """Makes and sends events; a method returns the id of the event, or something to await if it has to wait."""

    def __init__(
        self,
        router: Router,
        fanout: FanOut,
        table: RoutingTable,
        ownership: Ownership,
        requests: Requests,
        state: NodeState,
        ids: EventIds,
        max_event_size: int,
    ) -> None:
        self._router = router
        self._fanout = fanout
        self._publish_one = fanout.publish
        self._routes = table.known
        self._clients = ownership.clients
        self._requests = requests
        self._state = state
        self._ids = ids
        self._largest = max_event_size

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
        """Send to a client or a node, in the name of *source*."""
        # Nearly every event goes this way: through _send_here, Router.put and Mailbox.add, or through _send_away,
        # Router.put_out and Outbox.add. Nothing is awaited that need not wait.
        if target.__class__ is not str:
            target = check_address(target)
        type = known_topic(type) if type.__class__ is str else check_topic(type)
        if timeout is not None:
            check_seconds("timeout", timeout)
        if headers is None and expires is None and self._state.accepting:
            if (held := self._clients.get(target)) is not None:
                return self._send_here(held, source, target, type, data, timeout)
            if (route := self._routes.get(target)) is not None:
                return self._send_away(route, source, target, type, data, timeout)
        route = self._routes.get(target)
        until = None if expires is None else expiry(expires)
        event, size = self._event(source, target, type, data, headers, route, until)
        return sent(event, self._router.send(event, size, route, timeout))

    def publish(
        self,
        source: str,
        topic: str | Sequence[str],
        data: object,
        headers: Headers | None,
        timeout: float | None = None,
        expires: float | None = None,
    ) -> Sent:
        """Publish to a topic, or to several so that each receiver gets one event, in the name of *source*."""
        if timeout is not None:
            check_seconds("timeout", timeout)
        until = None if expires is None else expiry(expires)
        if not isinstance(topic, str):
            return self._publish_each(source, check_topics(topic), data, headers, timeout, until)
        topic = known_topic(topic) if topic.__class__ is str else check_topic(topic)
        event, size = self._event(source, topic_address(topic), topic, data, headers, None, until)
        wait = self._publish_one(topic, event, size, timeout)
        return event.id if wait is None else _accepted(event.id, wait)

    async def publish_durably(
        self,
        source: str,
        topic: str | Sequence[str],
        data: object,
        headers: Headers | None,
        timeout: float | None = None,
        expires: float | None = None,
    ) -> str:
        """
        Publish to a retained topic, and wait until the history has the event.

        Raises:
            TopicNotRetained: *topic* is not.
            TransportUnavailable: the history has not confirmed it within *timeout* (``send_timeout``).
            ConfigurationError: the history refuses the event.
        """
        raise TopicNotRetained(topic if isinstance(topic, str) else ", ".join(topic))

    def broadcast(
        self,
        source: str,
        type: str,
        data: object,
        headers: Headers | None,
        timeout: float | None = None,
        expires: float | None = None,
        *,
        include_self: bool,
    ) -> Sent:
        """Send to every node, in the name of *source*."""
        if timeout is not None:
            check_seconds("timeout", timeout)
        until = None if expires is None else expiry(expires)
        type = known_topic(type) if type.__class__ is str else check_topic(type)
        event, size = self._event(source, EVERYONE, type, data, headers, None, until)
        wait = self._fanout.broadcast(event, size, timeout, include_self=include_self)
        return event.id if wait is None else _accepted(event.id, wait)

    def emit(
        self, address: str, type: str, data: object, headers: Headers | None, timeout: float | None = None
    ) -> Sent:
        """Hand to the handlers of this node alone, whose *address* it is."""
        check_seconds("timeout", timeout)
        event, size = self._event(address, address, check_topic(type), data, headers)
        return sent(event, self._fanout.emit(event, size, timeout))

    async def request(
        self, source: str, target: str, type: str, data: object, timeout: float, headers: Headers | None
    ) -> Event:
        """Send a request in the name of *source*, and return its answer."""
        return await self.ask(source, target, check_topic(type), data, timeout, headers)

    async def ask(
        self, source: str, target: str, type: str, data: object, timeout: float, headers: Headers | None
    ) -> Event:
        """Do what :meth:`request` does with an event of any type, control messages included."""
        self._state.check_waiting()
        if target.__class__ is not str:
            target = check_address(target)
        route = self._routes.get(target)
        event, size = self._event(source, target, type, data, headers, route, None, self._requests.address)
        deadline = self._requests.deadline(target, type, timeout)
        pending = self._requests.open(event.id, target, None if route is None else route.queue.node)
        try:
            wait = self._router.send(event, size, route)  # mostly it is written now, before the deadline is set up
            with deadline:
                if wait is not None:
                    await wait
                    if (route := self._routes.get(target)) is not None:
                        pending.went_to(route.queue.node)
                return await pending.wait()
        finally:
            self._requests.close(event.id)

    def reply(
        self, source: str, request: Event, data: object, headers: Headers | None, timeout: float | None = None
    ) -> Sent:
        """Answer *request*, in the name of *source*."""
        check_seconds("timeout", timeout)
        if request.reply_to is None:
            raise EventBusError(f"{request!r} is not a request: its sender does not wait for an answer; use send")
        route = self._routes.get(request.reply_to)
        event, size = self._event(source, request.reply_to, request.type, data, headers, route, None, None, request.id)
        wait = self._router.send(event, size, route, timeout)
        if wait is None:
            self._requests.taken.discard(request.id)
            return event.id
        return self._replied(request.id, event.id, wait)

    def event(
        self,
        source: str,
        target: str,
        type: str,
        data: object,
        headers: Headers | None,
        expires: float | None,
        timeout: float | None,
    ) -> tuple[Event, int]:
        """Return a new event in the name of *source*, not sent yet, and the size of its data."""
        check_seconds("timeout", timeout)
        until = None if expires is None else expiry(expires)
        return self._event(source, target, check_topic(type), data, headers, None, until)

    async def _replied(self, request: str, id: str, wait: Coroutine[Any, Any, None]) -> str:
        await wait
        self._requests.taken.discard(request)  # not sooner: the sender of the request must learn if this fails
        return id

    def _publish_each(
        self,
        source: str,
        topics: list[str],
        data: object,
        headers: Headers | None,
        timeout: float | None,
        until: float | None,
    ) -> Sent:
        """Publish one event for each topic; its target names the earlier topics too, whose receivers it is not for."""
        event, size = self._event(source, topic_address(topics[0]), topics[0], data, headers, None, until)
        events = [event]
        for place, topic in enumerate(topics[1:], 1):
            target = topic_address(besides(topic, topics[:place]))
            events.append(replace(event, type=topic, target=target))
        return sent(event, self._fanout.publish_each(events, size, timeout))

    def _send_here(
        self, held: HeldClient, source: str, target: str, type: str, data: object, timeout: float | None
    ) -> Sent:
        raw = encode_data(data, self._largest)
        event, size = Event(type, source, target, self._ids.next(), Raw(raw)), len(raw)
        if self._router.put(held, event, size):
            return event.id
        return sent(event, self._router.send(event, size, None, timeout))

    def _send_away(
        self, route: Route, source: str, target: str, type: str, data: object, timeout: float | None
    ) -> Sent:
        """Send by *route*: encoding the event together with its data takes half of the time of both apart."""
        encoded, id = None, self._ids.next()
        try:
            if data.__class__ is not Raw:  # must be decoded to be checked
                encoded = encode_unread((type, source, target, id, data, None, route.epoch))
                check_encoded(encoded)
        except (*UNSENDABLE, *UNREADABLE):
            encoded = None
        if encoded is not None and len(encoded) <= self._largest and self._router.put_out(route, encoded):
            return id
        # There is no room, or the data is at fault.
        event, size = self._event(source, target, type, data, None, route)
        return sent(event, self._router.send(event, size, route, timeout))

    def _event(
        self,
        source: str,
        target: str,
        type: str,
        data: object,
        headers: Headers | None,
        route: Route | None = None,
        expires: float | None = None,
        reply_to: str | None = None,
        answers: str | None = None,
    ) -> tuple[Event, int]:
        """Return a new event and the size of its data; it is encoded now, so that later changes do not reach it."""
        self._state.check_accepting()
        raw = encode_data(data, self._largest)
        text, size = None, len(raw)
        if headers is not None:
            text, extra = check_headers(headers)
            size += extra
            if size > self._largest:
                raise EventTooLarge(size, self._largest)
        epoch = 0 if route is None else route.epoch
        next_id = self._ids.next
        return Event(type, source, target, next_id(), Raw(raw), text, epoch, 0, None, reply_to, answers, expires), size


def sent(event: Event, wait: Wait) -> Sent:
    """Return the id of *event*, once *wait* is over."""
    return event.id if wait is None else _accepted(event.id, wait)


async def _accepted(id: str, wait: Coroutine[Any, Any, None]) -> str:
    await wait
    return id


def expiry(expires: float) -> float:
    """Return the time, in seconds since 1970, *expires* seconds from now."""
    check_seconds("expires", expires)
    return time() + expires
