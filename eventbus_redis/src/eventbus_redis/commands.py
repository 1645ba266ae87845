"""A connection for commands and their replies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import anyio
from redis.exceptions import NoScriptError, ResponseError

from eventbus_core.errors import TransportUnavailable
from eventbus_redis.connection import Connection
from eventbus_redis.errors import denies_writes, redis_errors
from eventbus_redis.packing import Script, pack
from eventbus_redis.server import HELLO, ROLE, Hello, Server, replicas_of


class Commands:
    """
    One connection for commands, opened when first needed and reopened after a fault.

    Callers take turns. A command whose connection broke, or whose caller was cancelled, may or may not have been
    executed; this class never sends it a second time. A reply that rejects a write closes all connections to the
    server: after a fail-over they may lead to the former primary.
    """

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        self._turn = anyio.Semaphore(1, fast_acquire=True)
        self._connection: Connection | None = None
        self._closed = False

    async def open(self) -> None:
        """Connect, so that faults are raised now."""
        await self._connect()

    def close(self) -> None:
        """Disconnect; callers that wait for replies get :class:`TransportUnavailable`."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def call(self, *commands: bytes) -> list[Any]:
        """
        Send *commands* in one write and return their replies.

        Raises:
            TransportUnavailable: no connection, or no answer in time.
            ConfigurationError, EventBusError: the server refused a command; the others may have been executed.
        """
        with redis_errors(self._server.uri):
            async with asyncio.timeout(self._timeout):
                return _checked(await self._exchange(commands, len(commands)))

    async def send(self, pieces: Sequence[bytes], count: int) -> list[Any]:
        """
        Send *count* commands in *pieces* and return their replies, errors included; silence alone ends it.

        There are fewer replies if the server hung up after the last of them, an error: it has not executed the rest.

        Raises:
            TransportUnavailable: no connection, or no answer in time; the commands may have been executed.
        """
        with redis_errors(self._server.uri):
            return await self._exchange(pieces, count)

    def begin(self, pieces: Sequence[bytes], count: int) -> Callable[[], Awaitable[list[Any]]] | None:
        """
        Write *count* commands in *pieces* now, and return the call that waits for their replies, as :meth:`send` does.

        Return ``None``, and write nothing, if there is no connection or another caller has its turn. All other callers
        wait until the returned call has ended.
        """
        connection = self._connection
        if connection is None or connection.lost or self._turn.value == 0:
            return None
        self._turn.acquire_nowait()
        connection.write(pieces)
        return partial(self._finish, connection, count)

    async def _finish(self, connection: Connection, count: int) -> list[Any]:
        try:
            with redis_errors(self._server.uri):
                return await self._read_replies(connection, count)
        finally:
            self._turn.release()

    async def run(self, script: Script, calls: Sequence[bytes]) -> list[Any]:
        """Do what :meth:`call` does for *calls* of *script*; load the script first if the server lacks it."""
        with redis_errors(self._server.uri):
            async with asyncio.timeout(self._timeout):
                replies = await self._exchange(calls, len(calls))
                unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                if unknown:
                    again = [pack("SCRIPT", "LOAD", script.source), *(calls[index] for index in unknown)]
                    _, *answers = _checked(await self._exchange(again, len(again)))
                    for index, reply in zip(unknown, answers, strict=True):
                        replies[index] = reply
                return _checked(replies)

    async def check_role(self) -> None:
        """
        Note how many replicas the server has; close all connections if it is not a primary.

        Raises:
            TransportUnavailable: it is not, or there is no connection.
            ConfigurationError: the reply is not that of a Redis.
        """
        with redis_errors(self._server.uri):
            async with asyncio.timeout(self._timeout):
                reply, role = await self._exchange([HELLO, ROLE], 2)
            hello = Hello.parse(reply)
        self._server.replicas = replicas_of(role)
        try:
            self._server.check_primary(hello.role)
        except TransportUnavailable as error:
            self._server.drop(str(error))
            raise

    async def _exchange(self, pieces: Sequence[bytes], count: int) -> list[Any]:
        async with self._turn:
            if not self._connected():
                await self._connect()
            connection = self._connection
            if connection is None or self._closed:
                self.close()
                raise TransportUnavailable(f"the connection to {self._server.uri} is closed")
            connection.write(pieces)
            return await self._read_replies(connection, count)

    async def _read_replies(self, connection: Connection, count: int) -> list[Any]:
        try:
            replies = await connection.read_replies(count)
        except BaseException:
            self._connection = None
            connection.close()
            raise
        for reply in replies:
            if isinstance(reply, ResponseError) and denies_writes(reply):
                self._server.drop(str(reply))
                break
        return replies

    def _connected(self) -> bool:
        return self._connection is not None and not self._connection.lost

    async def _connect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if not self._closed:
            self._connection = await self._server.connect(self._timeout)


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    return replies
