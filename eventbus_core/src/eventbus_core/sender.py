"""What applications send: checked, made into events, and handed to the router."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import TypeAlias

from msgspec import Raw

from eventbus_core.errors import EventBusError, EventTooLarge, RequestTimeout
from eventbus_core.event import UNSENDABLE, Event, check_headers, encode_data, encode_unread
from eventbus_core.holding import Holding
from eventbus_core.names import EVERYONE, check_address, check_topic, known_topic, topic_address
from eventbus_core.options import check_seconds
from eventbus_core.requests import Requests
from eventbus_core.routes import Route
from eventbus_core.routing import Router, Wait
from eventbus_core.waits import Waits, not_open

Headers: TypeAlias = Mapping[str, str]


class Sender:
    """
    Makes and sends events; those methods that need not wait return what is to be awaited, if anything.

    Attributes:
        open: whether the bus takes events.
    """

    def __init__(self, router: Router, requests: Requests, waits: Waits) -> None:
        self.open = False
        self._router = router
        self._requests = requests
        self._waits = waits
        self._routes = router.routes.known
        self._clients = router.clients
        self._largest = router.options.max_event_size

    def check_open(self) -> None:
        """Raise :class:`BusClosed` unless it is."""
        if not self.open:
            raise not_open()

    def send(
        self,
        source: str,
        target: str,
        type: str,
        data: object,
        headers: Headers | None,
        expires: float | None = None,
    ) -> Wait:
        """Send to a client or a node, in the name of *source*."""
        # Nearly every event goes this way: through _send_here, Router.put and Mailbox.add, or through _send_away,
        # Router.put_out and Outbox.add. Nothing is awaited that need not wait.
        if target.__class__ is not str:
            target = check_address(target)
        type = known_topic(type) if type.__class__ is str else check_topic(type)
        if headers is None and expires is None and self.open:
            if (holding := self._clients.get(target)) is not None:
                return self._send_here(holding, source, target, type, data)
            if (route := self._routes.get(target)) is not None:
                return self._send_away(route, source, target, type, data)
        route = self._routes.get(target)
        until = None if expires is None else _until(expires)
        event, size = self._event(source, target, type, data, headers, route, until)
        return self._router.send(event, size, route)

    def publish(self, source: str, topic: str, data: object, headers: Headers | None) -> Wait:
        """Publish to a topic, in the name of *source*."""
        topic = check_topic(topic)
        return self._router.publish(topic, *self._event(source, topic_address(topic), topic, data, headers))

    def broadcast(self, source: str, type: str, data: object, headers: Headers | None, *, include_self: bool) -> Wait:
        """Send to every node, in the name of *source*."""
        event, size = self._event(source, EVERYONE, check_topic(type), data, headers)
        return self._router.broadcast(event, size, include_self=include_self)

    def emit(self, type: str, data: object, headers: Headers | None) -> Wait:
        """Hand to the handlers of this node alone."""
        address = self._router.address
        return self._router.emit(*self._event(address, address, check_topic(type), data, headers))

    async def request(
        self, source: str, target: str, type: str, data: object, timeout: float, headers: Headers | None
    ) -> Event:
        """Send a request in the name of *source*, and return its answer."""
        return await self.ask(source, target, check_topic(type), data, timeout, headers)

    async def ask(
        self, source: str, target: str, type: str, data: object, timeout: float, headers: Headers | None
    ) -> Event:
        """Do what :meth:`request` does with an event of any type, those of the bus' own included."""
        if target.__class__ is not str:
            target = check_address(target)
        route = self._routes.get(target)
        event, size = self._event(source, target, type, data, headers, route, None, self._router.address)
        pending = self._requests.open(event.id)
        try:
            with self._waits.within(timeout, lambda: RequestTimeout(f"the answer of {target!r} to {type!r}", timeout)):
                wait = self._router.send(event, size, route)
                if wait is not None:
                    await wait
                return await pending.wait()
        finally:
            self._requests.close(event.id)

    def reply(self, source: str, request: Event, data: object, headers: Headers | None) -> Wait:
        """Answer *request*, in the name of *source*."""
        if request.reply_to is None:
            raise EventBusError(f"{request!r} is no request: its sender waits for no answer; use send")
        route = self._routes.get(request.reply_to)
        event, size = self._event(source, request.reply_to, request.type, data, headers, route, None, None, request.id)
        return self._router.send(event, size, route)

    def _send_here(self, holding: Holding, source: str, target: str, type: str, data: object) -> Wait:
        raw = encode_data(data, self._largest)
        event, size = Event(type, source, target, self._router.next_id(), Raw(raw)), len(raw)
        return None if self._router.put(holding, event, size) else self._router.send(event, size, None)

    def _send_away(self, route: Route, source: str, target: str, type: str, data: object) -> Wait:
        """Send by *route*: the event is encoded with its data in one go, for half of what both would take."""
        try:
            encoded = encode_unread((type, source, target, self._router.next_id(), data, None, route.epoch))
        except UNSENDABLE:
            encoded = None
        if encoded is not None and len(encoded) <= self._largest and self._router.put_out(route, encoded):
            return None
        # There is no room, or something about the data is to be said.
        event, size = self._event(source, target, type, data, None, route)
        return self._router.send(event, size, route)

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
        if not self.open:
            raise not_open()
        raw = encode_data(data, self._largest)
        text, size = None, len(raw)
        if headers is not None:
            text, extra = check_headers(headers)
            size += extra
            if size > self._largest:
                raise EventTooLarge(size, self._largest)
        epoch = 0 if route is None else route.epoch
        next_id = self._router.next_id
        return Event(type, source, target, next_id(), Raw(raw), text, epoch, 0, None, reply_to, answers, expires), size


def _until(expires: float) -> float:
    check_seconds("expires", expires)
    return time() + expires
