"""Server-sent events of a client, for Starlette."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

import anyio
import msgspec

from eventbus import (
    BusClosed,
    Client,
    ClientTakenOver,
    ConfigurationError,
    Event,
    Gap,
    LimitExceeded,
    NodeDraining,
    Resumed,
    TransportUnavailable,
)

try:
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.types import Receive, Scope, Send
except ImportError as error:
    raise ImportError(
        "eventbus_core.integrations.event_stream needs starlette: pip install 'eventbus[starlette]'", name=error.name
    ) from error

_NEVER: Final = 86_400_000  # milliseconds after which an EventSource connects again whose client was taken over
_TAKEN_OVER: Final = f"retry: {_NEVER}\nevent: $sys.taken_over\ndata:\n\n"


def encode_event(event: Event) -> str:
    """Return an event as JSON: ``type``, ``source`` and ``data``; where events were lost, ``lost`` says how many."""
    if event.type == "$sys.loss":
        return msgspec.json.encode({"type": event.type, "lost": event.data.missed}).decode()
    return msgspec.json.encode({"type": event.type, "source": event.source, "data": event.data}).decode()


class ClientEventStream(StreamingResponse):
    """
    A response that streams the events of a client as server-sent events, and holds the client until the browser goes.

    Each has the type of its event, and its position as its id, if it has one. ``linger`` of the client keeps events
    for an ``EventSource`` that connects again. If the client is taken over, the last event is ``$sys.taken_over``; the
    page must close its ``EventSource`` then. If the bus drains, the browser is told when to connect again. The response
    is 503 if the broker takes nothing, or a limit is reached.

    Args:
        client: is opened, and released at the end.
        topics: are subscribed to.
        since: the ``Last-Event-ID`` of the request, or an empty text: the stream resumes its only topic, which is
            retained, from there.
        encode: returns the data for an event.
        keep_alive: seconds after which a comment is sent, since proxies close connections that are silent.

    Raises:
        ConfigurationError: *since* is given with another number of topics than one.
    """

    def __init__(
        self,
        client: Client,
        *,
        topics: Iterable[str] = (),
        since: str | None = None,
        encode: Callable[[Event], str] = encode_event,
        keep_alive: float = 15.0,
    ) -> None:
        super().__init__(self._lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._client = client
        self._topics = list(topics)
        if since is not None and len(self._topics) != 1:
            raise ConfigurationError(f"'since' resumes one topic, but {len(self._topics)} are given: leave it out")
        self._since = since
        self._answer: Resumed | Gap | None = None
        self._encode = encode
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the client, and respond."""
        respond = super().__call__
        try:
            try:
                await self._client.open()
                for topic in self._topics:
                    await self._subscribe(topic)
            except ClientTakenOver:
                self.body_iterator = _taken_over()
            except (BusClosed, NodeDraining, TransportUnavailable, LimitExceeded) as refusal:
                respond = PlainTextResponse(str(refusal), 503, {"Retry-After": "5"}).__call__
            await respond(scope, receive, send)
        finally:
            await self._client.aclose()

    async def _subscribe(self, topic: str) -> None:
        if self._since is None:
            await self._client.subscribe(topic)
        else:
            self._answer = await self._client.subscribe(topic, since=self._since)

    async def _lines(self) -> AsyncIterator[str]:
        yield ": connected\n\n"
        match self._answer:
            case Gap(missed=missed):
                yield f'event: $sys.loss\ndata: {{"type":"$sys.loss","lost":{missed}}}\n\n'
            case Resumed(events=0, position=position):  # an id for an EventSource that gets no event
                yield f"id: {position}\n\n"
        try:
            while True:
                yield await self._next()
        except ClientTakenOver:
            yield _TAKEN_OVER
        except NodeDraining as draining:
            yield f"retry: {draining.retry_after * 1000:.0f}\n\n"
        except (BusClosed, LimitExceeded):  # the browser connects again
            return

    async def _next(self) -> str:
        with anyio.move_on_after(self._keep_alive):
            event = await self._client.receive()
            data = self._encode(event).replace("\n", "\ndata: ")
            position = "" if event.position is None else f"id: {event.position}\n"
            return f"{position}event: {event.type}\ndata: {data}\n\n"
        return ": still here\n\n"


async def _taken_over() -> AsyncIterator[str]:
    """Yield what tells a page not to connect again."""
    yield _TAKEN_OVER
