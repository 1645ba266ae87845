"""
Sessions of the MCP Python SDK behind a load balancer that knows nothing of them: ``pip install 'eventbus[mcp]'``.

    app = ForwardedSessions(server.streamable_http_app(), bus)
"""

from __future__ import annotations

from logging import getLogger
from time import monotonic
from typing import Any, Final

from eventbus import Bus, Client, EventBusError, quote
from eventbus_core.integrations.forwarded_requests import App, ForwardedRequests, Message, Receive, Send, refuse

__all__ = ("ForwardedSessions",)

_SESSION: Final = b"mcp-session-id"
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
        self._forwarded = ForwardedRequests(bus, self._serve, self._tenant)
        self._state: dict[str, Any] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request, or have the replica serve it that holds its session."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._state = dict(scope.get("state", ()))
        session = _session(scope["headers"])
        try:
            away = session is not None and session not in self._sessions
            away = away and await self._bus.locate(self._address(str(session))) is not None
        except EventBusError as error:
            _log.warning("the session of a request could not be looked up: %r", error)
            await refuse(send, *_UNAVAILABLE)
            return
        if session is not None and away:
            await self._forwarded.forward(scope, receive, send, self._address(session))
        else:
            await self._serve(scope, receive, send)

    async def aclose(self) -> None:
        """Give the sessions up, and return once requests of theirs that other replicas have forwarded have ended."""
        try:
            for session in list(self._sessions):
                await self._release(session)
        finally:  # no request comes any more
            await self._forwarded.aclose()

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request here, and release its session if that has ended."""
        scope.setdefault("state", dict(self._state))  # a forwarded request has none
        session = _session(scope["headers"])
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
                        _log.warning("a session could not be begun: %r", error)
                        refused = True
                        await refuse(send, *_UNAVAILABLE)
                deleted = scope["method"] == "DELETE" and message["status"] < 300  # else the session goes on
                ended = deleted or message["status"] == 404
            if not refused:
                await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            if held is not None:
                held.end_request()
        if ended:
            await self._release(session)

    async def _hold(self, name: str) -> _HeldSession:
        """Hold the session *name*, which an open request has begun; release those that are idle for too long."""
        for old, held in list(self._sessions.items()):
            if held.idle_for(self._idle):
                await self._release(old)
        session = _HeldSession(await self._bus.client(self._address(name), handler=self._forwarded.take).open())
        session.begin_request()
        self._sessions[name] = session
        return session

    async def _release(self, name: str | None) -> None:
        if (session := self._sessions.pop(name or "", None)) is not None:
            await session.client.aclose()

    def _address(self, name: str) -> str:
        return f"{self._tenant}/{quote(name)}"


def _session(headers: Any) -> str | None:
    return next((value.decode("latin-1") for name, value in headers if name.lower() == _SESSION), None)
