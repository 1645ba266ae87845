"""
Sessions of the MCP Python SDK behind a load balancer that knows nothing of them: ``pip install 'eventbus[mcp]'``.

    app = ForwardedSessions(server.streamable_http_app(), bus)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing, suppress
from logging import getLogger
from math import inf
from time import monotonic
from typing import Any, Final, TypeAlias
from uuid import uuid4

import anyio

from eventbus import Bus, Client, Event, EventBusError, EventTooLarge, quote

__all__ = ("ForwardedSessions",)

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

_SESSION: Final = b"mcp-session-id"
_REQUEST: Final = "mcp.request"
_RESPONSE: Final = "mcp.response"
_GONE: Final = "mcp.gone"
_FORWARDED: Final = ("type", "method", "scheme", "http_version", "path", "raw_path", "query_string", "root_path")
_CHUNK: Final = 256 * 1024
_LOOK_EVERY: Final = 15.0
"""Seconds after which a replica looks whether the one that forwarded a request is still there."""
_FAILED: Final = 503, "the replica that holds the session has gone, or failed to answer; try again"
_UNAVAILABLE: Final = 503, "this replica cannot reach the others now; try again in a few seconds"

_log = getLogger("eventbus.mcp")


class _HeldSession:
    """A session that this replica holds, as *client*."""

    __slots__ = ("_ended", "_requests", "client")

    def __init__(self, client: Client) -> None:
        self.client = client
        self._requests = 0  # that are open
        self._ended = monotonic()  # when the last of them did

    def begin_request(self) -> None:
        """Count an open request more."""
        self._requests += 1

    def end_request(self) -> None:
        """Count an open request less."""
        self._requests -= 1
        self._ended = monotonic()

    def idle_for(self, seconds: float) -> bool:
        """Return whether it has had no open request for so long."""
        return not self._requests and monotonic() - self._ended > seconds


class ForwardedSessions:
    """
    An ASGI application that passes each request of a session on to the replica that began the session.

    A session is a client of the bus, held by its replica. A request that reaches another replica goes there as an
    event, and the response comes back as events, streams included. Requests of sessions that no replica holds
    are answered by *app* itself, with 404, so that their clients begin another one. If the replica dies, or the bus
    cannot reach it, a request is answered with 503, or its stream ends. A request that is larger than an event may be
    is answered with 413; no more of it is read.

    Args:
        app: the application of the SDK, with all of its middleware.
        bus: the bus of this process; the application opens it before it serves, and closes it afterwards.
        idle: seconds after which a session without an open request is forgotten; more than the server's own
            ``session_idle_timeout``.
        tenant: of the clients that are sessions; servers with different content on one bus need one each.
    """

    def __init__(self, app: App, bus: Bus, *, idle: float = 7200.0, tenant: str = "mcp") -> None:
        self._app = app
        self._bus = bus
        self._idle = idle
        self._tenant = quote(tenant)
        self._sessions: dict[str, _HeldSession] = {}
        self._state: object = None
        self._serving: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request, or have the replica serve it that holds its session."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._state = scope.get("state")
        session = _session(scope["headers"])
        try:
            away = session is not None and session not in self._sessions
            away = away and await self._bus.locate(self._address(str(session))) is not None
        except EventBusError as error:
            _log.info("the session of a request could not be looked up: %r", error)
            await _refuse(send, *_UNAVAILABLE)
            return
        if session is not None and away:
            await self._forward(session, scope, receive, send)
        elif await self._serve(session, scope, receive, send):
            await self._release(session)

    async def aclose(self) -> None:
        """Give the sessions up, and return once requests of theirs that other replicas have forwarded have ended."""
        try:
            for session in list(self._sessions):
                await self._release(session)
        finally:  # no request comes any more
            tasks = [task for task, _ in self._serving.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, session: str | None, scope: Message, receive: Receive, send: Send) -> bool:
        """Serve a request here; return whether its session has ended."""
        ended, refused, held = False, False, self._sessions.get(session or "")
        if held is not None:
            held.begin_request()

        async def note(message: Message) -> None:
            nonlocal ended, refused, held
            if message["type"] == "http.response.start":
                found = _session(message.get("headers", ()))
                if session is None and found is not None:
                    try:
                        held = await self._hold(found)
                    except EventBusError as error:
                        _log.info("a session could not be begun: %r", error)
                        refused = True
                        await _refuse(send, *_UNAVAILABLE)
                deleted = scope["method"] == "DELETE" and message["status"] < 300  # else the session goes on
                ended = deleted or message["status"] == 404
            if not refused:
                await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            if held is not None:
                held.end_request()
        return ended

    async def _hold(self, name: str) -> _HeldSession:
        """Hold the session *name*, which an open request has begun; release those that are idle for too long."""
        for old, held in list(self._sessions.items()):
            if held.idle_for(self._idle):
                await self._release(old)
        session = _HeldSession(await self._bus.client(self._address(name), handler=self._take).open())
        session.begin_request()
        self._sessions[name] = session
        return session

    async def _release(self, name: str | None) -> None:
        if (session := self._sessions.pop(name or "", None)) is not None:
            await session.client.aclose()

    def _take(self, event: Event) -> None:
        """Serve a request that another replica forwards, in a task; runs in the event loop of the bus."""
        if event.type == _GONE:
            if event.data in self._serving:
                self._serving[event.data][1].set()
            return
        gone = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._answer(event, gone))
        self._serving[event.data["to"]] = task, gone
        task.add_done_callback(lambda _: self._serving.pop(event.data["to"], None))

    async def _answer(self, request: Event, gone: asyncio.Event) -> None:
        data, to = request.data, request.data["to"]
        scope = {**data["scope"], "headers": [tuple(pair) for pair in data["scope"]["headers"]]}
        scope |= {"asgi": {"version": "3.0"}} | ({} if self._state is None else {"state": self._state})
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

        async def send(message: Message) -> None:
            if message["type"] != "http.response.body":
                await self._bus.send(to, _RESPONSE, message)
                return
            whole = message.get("body", b"")
            for place in range(0, max(1, len(whole)), _CHUNK):
                part = whole[place : place + _CHUNK]
                more = message.get("more_body", False) or place + _CHUNK < len(whole)
                await self._bus.send(to, _RESPONSE, {**message, "body": part, "more_body": more})

        session, served, ended = _session(scope["headers"]), False, False
        try:
            ended = await self._serve(session, scope, receive, send)
            served = True
        except Exception as error:  # of the application; or the other replica, or its client, has gone
            _log.info("a request that another replica forwarded has failed: %r", error)
        with suppress(EventBusError):
            await self._bus.reply(request, served)
            if ended:  # not sooner: a client that is released has not answered
                await self._release(session)

    async def _forward(self, session: str, scope: Message, receive: Receive, send: Send) -> None:
        try:
            body = await _body(receive, self._bus.max_event_size)
        except EventTooLarge as error:
            await _refuse(send, 413, f"the request has more than the {error.limit:,} bytes of max_event_size")
            return
        if body is None:
            return
        replies = self._bus.client(self._address(uuid4().hex))
        try:
            await replies.open()
        except EventBusError as error:
            _log.info("a request could not be forwarded: %r", error)
            await _refuse(send, *_UNAVAILABLE)
            return
        async with aclosing(replies):
            passed = {name: scope[name] for name in _FORWARDED if name in scope} | {"headers": scope["headers"]}
            data = {"to": replies.name, "scope": passed, "body": body}
            await self._pass_on(self._address(session), data, replies, receive, send)

    async def _pass_on(self, holder: str, data: Message, replies: Client, receive: Receive, send: Send) -> None:
        """Have *holder* serve the request in *data*, and pass on what comes to *replies*."""
        started = False
        async with anyio.create_task_group() as group:

            async def fail(status: int, reason: str) -> None:
                if not started:
                    await _refuse(send, status, reason)
                group.cancel_scope.cancel()

            async def ask() -> None:
                refusal = _FAILED
                try:
                    if (await self._bus.request(holder, _REQUEST, data, timeout=inf)).data:
                        return  # the response ends as well
                except EventTooLarge as error:
                    refusal = 413, str(error)
                except EventBusError as error:
                    _log.info("a request could not be forwarded: %r", error)
                await fail(*refusal)

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                with suppress(EventBusError):  # then the holder finds out by itself
                    await self._bus.send(holder, _GONE, replies.name)
                group.cancel_scope.cancel()

            group.start_soon(ask)
            group.start_soon(watch)
            try:
                async for event in replies:
                    message = event.data
                    if message["type"] == "http.response.start":
                        started = True
                        await send({**message, "headers": [tuple(pair) for pair in message["headers"]]})
                        continue
                    await send(message)
                    if not message["more_body"]:
                        break
                group.cancel_scope.cancel()
            except EventBusError as error:
                _log.info("the response to a forwarded request was lost: %r", error)
                await fail(*_UNAVAILABLE)

    def _address(self, name: str) -> str:
        return f"{self._tenant}/{quote(name)}"


def _session(headers: Any) -> str | None:
    return next((value.decode("latin-1") for name, value in headers if name.lower() == _SESSION), None)


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


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
