"""HTTP requests of an ASGI application that another node of the bus serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing, suppress
from logging import getLogger
from math import inf
from typing import Any, Final, TypeAlias
from uuid import uuid4

import anyio

from eventbus import Bus, Client, ClientNotFound, Event, EventBusError, EventTooLarge

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

_REQUEST: Final = "http.request"
_RESPONSE: Final = "http.response"
_GONE: Final = "http.gone"
_FORWARDED: Final = ("type", "method", "scheme", "http_version", "path", "raw_path", "query_string", "root_path")
_CHUNK: Final = 256 * 1024
_LOOK_EVERY: Final = 15.0
"""Seconds after which a replica looks whether the one that forwarded a request is still there."""
_UNAVAILABLE: Final = 503, "the replica that serves this cannot be reached, or failed to answer; try again"

_log = getLogger("eventbus.http")


class ForwardedRequests:
    """
    Requests that replicas forward to each other: each as an event to a client that another replica holds.

    The response comes back as events, streams included. A request that is larger than an event may be is answered with
    413, and no more of it is read; one whose replica fails, with 503, or its stream ends.

    Args:
        bus: the bus of this process.
        app: serves what other replicas forward.
        tenant: of the clients that get the responses, one for each request.
    """

    def __init__(self, bus: Bus, app: App, tenant: str) -> None:
        self._bus = bus
        self._app = app
        self._tenant = tenant
        self._serving: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = {}

    async def aclose(self) -> None:
        """Cancel what is being served for other replicas; call it when no request can come any more."""
        tasks = [task for task, _ in self._serving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def take(self, event: Event) -> None:
        """Serve a forwarded request, in a task: the handler of the clients to which this replica's requests go."""
        if event.type == _GONE:
            if event.data in self._serving:
                self._serving[event.data][1].set()
            return
        gone = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._serve(event, gone))
        self._serving[event.data["to"]] = task, gone
        task.add_done_callback(lambda _: self._serving.pop(event.data["to"], None))

    async def _serve(self, request: Event, gone: asyncio.Event) -> None:
        data, to, ended, left = request.data, request.data["to"], False, False
        scope = {**data["scope"], "headers": [tuple(pair) for pair in data["scope"]["headers"]]}
        body = [{"type": "http.request", "body": data["body"], "more_body": False}]

        async def receive() -> Message:
            if body:
                return body.pop()
            while not gone.is_set():
                with anyio.move_on_after(_LOOK_EVERY):
                    await gone.wait()
                with suppress(EventBusError):  # that is closed, say
                    if await self._bus.locate(to) is not None:
                        continue
                break
            return {"type": "http.disconnect"}

        async def tell(message: Message) -> None:
            nonlocal left
            try:
                await self._bus.send(to, _RESPONSE, message)
            except ClientNotFound:
                left = True
                raise

        async def send(message: Message) -> None:
            nonlocal ended
            if message["type"] != "http.response.body":
                await tell(message)
                return
            whole, more = message.get("body", b""), message.get("more_body", False)
            for place in range(0, max(1, len(whole)), _CHUNK):
                part = whole[place : place + _CHUNK]
                rest = more or place + _CHUNK < len(whole)
                await tell({**message, "body": part, "more_body": rest})
            if not more:  # not later: the application may release the client, which then has not answered
                await self._bus.reply(request, None)
                ended = True

        try:
            await self._app({**scope, "asgi": {"version": "3.0"}}, receive, send)
        except Exception as error:  # of the application, or of the bus
            if left:
                _log.debug("the user of a request that another replica forwarded has left: %r", error)
            else:
                _log.warning("a request that another replica forwarded has failed: %r", error)
        if not ended:
            with suppress(EventBusError):
                await self._bus.reply(request, "the application did not end its response")

    async def forward(self, scope: Message, receive: Receive, send: Send, to: str) -> None:
        """Have the replica that holds the client *to* serve a request, and send its response."""
        try:
            body = await _body(receive, self._bus.max_event_size)
            if body is None:
                return
            replies = await self._bus.client(f"{self._tenant}/{uuid4().hex}").open()
        except EventBusError as error:
            await refuse(send, *_reason(error))
            return
        passed = {name: scope[name] for name in _FORWARDED if name in scope} | {"headers": scope["headers"]}
        async with aclosing(replies):
            await self._relay({"to": replies.name, "scope": passed, "body": body}, replies, receive, send, to)

    async def _relay(self, data: Message, replies: Client, receive: Receive, send: Send, to: str) -> None:
        """Have *to* serve the request in *data*, and send what comes to *replies*."""
        started = False
        async with anyio.create_task_group() as group:

            async def fail(status: int, reason: str) -> None:
                if not started:
                    await refuse(send, status, reason)
                group.cancel_scope.cancel()

            async def ask() -> None:
                try:
                    failure = (await self._bus.request(to, _REQUEST, data, timeout=inf)).data
                except EventBusError as error:
                    await fail(*_reason(error))
                    return
                if failure is not None:  # else the response ends as well
                    _log.warning("a request that another replica served has failed: %s", failure)
                    await fail(*_UNAVAILABLE)

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                with suppress(EventBusError):  # then the other replica finds out by itself
                    await self._bus.send(to, _GONE, replies.name)
                group.cancel_scope.cancel()

            group.start_soon(ask)
            group.start_soon(watch)
            try:
                async for event in replies:
                    message = event.data
                    if message["type"] == "http.response.start":
                        started = True
                        message["headers"] = [tuple(pair) for pair in message["headers"]]
                    await send(message)
                    if message["type"] == "http.response.body" and not message["more_body"]:
                        break
                group.cancel_scope.cancel()
            except EventBusError as error:
                await fail(*_reason(error))


async def refuse(send: Send, status: int, reason: str) -> None:
    """Answer a request with *status*, and *reason* as plain text."""
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _reason(error: EventBusError) -> tuple[int, str]:
    """Return the status and the text with which a request is refused that could not be forwarded."""
    if isinstance(error, EventTooLarge):
        return 413, str(error)
    _log.warning("a request could not be forwarded: %r", error)
    return _UNAVAILABLE


async def _body(receive: Receive, limit: int) -> bytes | None:
    """
    Return the body of a request; ``None`` if the client has gone before its end.

    Raises:
        EventTooLarge: it has more than *limit* bytes.
    """
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > limit:
            raise EventTooLarge(len(body), limit)
        if not message.get("more_body", False):
            return bytes(body)
    return None
