"""A connection to the server: bytes of commands out, parsed replies in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import hiredis
from redis.exceptions import InvalidResponse, NoPermissionError, NoScriptError, RedisError, ResponseError

PAGE_SIZE: Final = 128 * 1024
READ_AHEAD: Final = 4 * PAGE_SIZE
CLOSED: Final = "the connection was closed"
HUNG_UP: Final = "the server closed the connection"
ERRORS: Final = {"NOSCRIPT": NoScriptError, "NOPERM": NoPermissionError}


class Connection(asyncio.BufferedProtocol):
    """
    A socket to the server, as a protocol of asyncio.

    redis-py's own connections hand out one reply at a time, through several coroutines, from a stream that has copied
    it twice, and set a timer for each. That costs more than all other work on a frame. This class takes all replies at
    once.

    Args:
        patience: seconds of silence after which :meth:`read` returns ``None``.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        # A view: asyncio's TLS fills slices of the buffer, and slices of a bytearray would be copies.
        self._buffer = memoryview(bytearray(PAGE_SIZE))
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=_error)
        self._parser.setmaxbuf(PAGE_SIZE)
        self._replies: list[Any] = []
        self._size = 0
        self._paused = False
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def lost(self) -> bool:
        """Whether the connection has ended; it never comes back."""
        return self._fault is not None

    def write(self, pieces: Sequence[bytes]) -> None:
        """Send *pieces* of commands; a failure is raised by :meth:`read`."""
        if not (self.lost or self._transport.is_closing()):  # Python 3.13 raises TypeError while it closes
            self._transport.writelines(pieces)

    async def read(self) -> list[Any] | None:
        """
        Return the replies since the last call, or ``None`` after *patience* seconds without any byte.

        The list is empty if only a part of a reply has arrived. A cancelled call loses nothing.

        Raises:
            RedisError, OSError: the connection is lost.
        """
        arrived = bool(self._replies) or await self._wait()
        if self._fault is not None and not self._replies:
            raise self._fault
        if not arrived:
            return None
        replies, self._replies, self._size = self._replies, [], 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return replies

    async def read_replies(self, count: int) -> list[Any]:
        """
        Return the next *count* replies; fewer only if the last is an error after which the server has hung up.

        Raises:
            RedisError, OSError: the connection is lost.
            TimeoutError: no byte arrived for *patience* seconds.
        """
        replies: list[Any] = []
        while len(replies) < count:
            try:
                arrived = await self.read()
            except (RedisError, OSError):
                if replies and isinstance(replies[-1], ResponseError):
                    break
                raise
            if arrived is None:
                raise TimeoutError("no answer in time")
            replies += arrived
        return replies

    def close(self, reason: str = CLOSED) -> None:
        """Disconnect at once; a blocked :meth:`read` raises."""
        self._end(ConnectionResetError(reason))

    async def _wait(self) -> bool:
        """Return ``True`` once bytes or a fault have arrived, ``False`` after *patience* seconds without."""
        if self.lost:
            return True
        self._waiter = self._loop.create_future()
        self._until = self._loop.time() + self._patience
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._check_silence)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def _check_silence(self) -> None:
        """Wake the reader if it has waited too long: one timer serves many reads, because it rarely fires."""
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._check_silence)
        else:
            self._wake(arrived=False)

    def _wake(self, *, arrived: bool = True) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(arrived)

    def _end(self, fault: Exception) -> None:
        if self._fault is None:
            self._fault = fault
            if self._timer is not None:
                self._timer.cancel()
            if self._transport is not None:
                self._transport.abort()
            self._wake()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._parser.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # its stub says: bytes
            while (reply := self._parser.gets()) is not False:
                self._replies.append(reply)
        except Exception as error:  # the parser raises errors of other types too, for bytes of other protocols
            self._end(error if isinstance(error, RedisError) else InvalidResponse(str(error)))
            return
        self._size += nbytes
        if self._replies and self._size >= READ_AHEAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionResetError(HUNG_UP))


def _error(text: str) -> ResponseError:
    return ERRORS.get(text.partition(" ")[0], ResponseError)(text)
