"""A connection to the server: commands out, and what it says in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import hiredis
from redis.exceptions import InvalidResponse, NoPermissionError, NoScriptError, RedisError, ResponseError

from eventbus_redis.server import AnyConnection

READ_SIZE: Final = 128 * 1024
READ_AHEAD: Final = 4 * READ_SIZE
ERRORS: Final = {"NOSCRIPT": NoScriptError, "NOPERM": NoPermissionError}


class Line(asyncio.BufferedProtocol):
    """
    A connection that redis-py has made, with what is read and written from then on.

    redis-py takes one reply at a time, through several coroutines, from a stream that has copied it twice; with a
    timer for each it would cost more than all else that is done for a frame. Here all that came is taken at once.

    Attributes:
        over: whether the connection is lost; its first fault is its end.
    """

    def __init__(self, connection: AnyConnection, patience: float) -> None:
        # The one private thing of redis-py in use, there since 4.2: its connections cannot be told to use a protocol.
        writer = connection._writer
        if writer is None:
            raise ConnectionResetError("the connection was closed")
        self._connection = connection
        self._transport: Any = writer.transport
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        # A view, as asyncio's TLS cuts pieces off what it gets and fills them: those of a bytearray would be copies.
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=_error)
        self._parser.setmaxbuf(READ_SIZE)
        self._said: list[Any] = []
        self._size = 0
        self._paused = False
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    @property
    def over(self) -> bool:
        return self._fault is not None

    def write(self, pieces: Sequence[bytes]) -> None:
        """Send *pieces* of commands; if that fails, :meth:`read` says so."""
        if not self.over:
            self._transport.writelines(pieces)

    async def read(self) -> list[Any] | None:
        """
        Return what the server has said since the last call, or ``None`` if it was silent for *patience* seconds.

        The list is empty if all there was is a part of something. May be cancelled at no loss.

        Raises:
            RedisError, OSError: the connection is lost.
        """
        heard = bool(self._said) or await self._wait()
        if self._fault is not None and not self._said:
            raise self._fault
        if not heard:
            return None
        said, self._said, self._size = self._said, [], 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return said

    async def aclose(self) -> None:
        """Disconnect at once; a reader gets an error."""
        self._end(ConnectionResetError("the connection was closed"))
        with suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)

    async def _wait(self) -> bool:
        """Return once there is something, or a fault; ``False`` after too long a silence."""
        if self.over:
            return True
        self._waiter = self._loop.create_future()
        self._until = self._loop.time() + self._patience
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._look)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def _look(self) -> None:
        """Wake the reader if it has waited for too long: one timer for many reads, as it is nearly never needed."""
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._look)
        else:
            self._wake(heard=False)

    def _wake(self, *, heard: bool = True) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(heard)

    def _end(self, fault: Exception) -> None:
        if self._fault is None:
            self._fault = fault
            if self._timer is not None:
                self._timer.cancel()
            self._transport.abort()
            self._wake()

    # What asyncio calls.

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._parser.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # its stub says: bytes
            while (said := self._parser.gets()) is not False:
                self._said.append(said)
        except RedisError as error:
            self._end(error)
            return
        self._size += nbytes
        if self._said and self._size >= READ_AHEAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionResetError("the server closed the connection"))


def _error(text: str) -> ResponseError:
    return ERRORS.get(text.partition(" ")[0], ResponseError)(text)
