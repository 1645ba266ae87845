"""A TCP proxy on loopback that does to its connections what networks do."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

from tests.servers import HOST

CHUNK: Final = 65_536
CHUNKS: Final = 64


class Proxy:
    """
    Passes on what comes to its port to the *target* port, and back.

    Attributes:
        port: where it listens.
        passing: while it is not set nothing is read or passed on, and neither side is told; afterwards it is.
        delay: seconds that everything takes on its way.
        dribble: whether one byte is delivered at a time.
        target: the port that new connections lead to.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.passing = asyncio.Event()
        self.passing.set()
        self.delay = 0.0
        self.dribble = False
        self.target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection there is."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(self._serve(reader, writer))

    def _keep(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = {writer}
        self._writers.add(writer)
        with suppress(OSError):
            await self.passing.wait()
            back, forth = await asyncio.open_connection(sock=await self._connect())
            writers.add(forth)
            self._writers.add(forth)
            ends = [asyncio.ensure_future(self._pump(reader, forth)), asyncio.ensure_future(self._pump(back, writer))]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
        self._writers -= writers
        for each in writers:
            each.transport.abort()

    async def _connect(self) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)  # what waits is to wait at the target
        await asyncio.get_running_loop().sock_connect(connection, (HOST, self.target))
        return connection

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on from *reader* to *writer* until either ends."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS)

        async def take() -> None:
            while data := await reader.read(CHUNK):
                await under_way.put((monotonic() + self.delay, data))
                await self.passing.wait()
            await under_way.put((0.0, b""))

        taking = asyncio.ensure_future(take())
        try:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(max(0.0, due - monotonic()))
                await self.passing.wait()
                if not data:
                    break
                await self._give(writer, data)
            await taking
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _give(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not self.dribble:
            writer.write(data)
        else:
            for at in range(len(data)):
                writer.write(data[at : at + 1])
                await asyncio.sleep(0)
        await writer.drain()
