"""One connection that is subscribed to channels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import hiredis
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from eventbus_redis.server import AnyConnection, stream_of

READ_SIZE: Final = 128 * 1024


class Subscriber:
    """Reads what the server pushes, as much as there is at a time; its first fault is its end."""

    def __init__(self, connection: AnyConnection) -> None:
        self._connection = connection
        self._stream = stream_of(connection)
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)

    async def ask(self, command: str, channels: Sequence[bytes]) -> None:
        """Send a command about *channels*; if that fails, :meth:`read` says so."""
        if not self._connection.is_connected:
            return
        with suppress(RedisError, OSError):  # redis-py has closed the connection then
            await self._connection.send_command(command, *channels, check_health=False)

    async def read(self) -> list[Any]:
        """
        Return the pushes that came, none if all there was is a part of one. May be cancelled at no loss.

        Raises:
            RedisError, OSError: the connection is lost, or the server has refused a command.
        """
        data = await self._stream.read(READ_SIZE)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._parser.feed(data)
        pushes = []
        while (push := self._parser.gets()) is not False:
            if isinstance(push, ResponseError):
                raise push
            pushes.append(push)
        return pushes

    async def aclose(self) -> None:
        """Disconnect; a reader gets an error."""
        await self._connection.disconnect()

    async def abort(self) -> None:
        """Disconnect without waiting for anything."""
        await self._connection.disconnect(nowait=True)
