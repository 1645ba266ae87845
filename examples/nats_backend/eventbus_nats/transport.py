"""Frames as messages of core NATS: a subject for each partition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar, Literal

import attrs
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from eventbus_core.backend import Capabilities, Frame, Interrupted, Partition, Transport, TransportURI, option
from eventbus_nats.directory import NatsDirectory
from eventbus_nats.errors import translated, translation
from eventbus_nats.rows import Rows

FOREVER = 10**6


@attrs.frozen
class NatsOptions:
    """What may stand in the URI's query, beside the options of every bus."""

    connect_timeout: float = option(5.0, "how long to try for the first connection", minimum=0.1)
    directory: Literal["none", "kv"] = option("none", "where clients are found: by asking all nodes, or in JetStream")
    ping_interval: int = option(5, "how often to ask whether the server still answers, in seconds", minimum=1)
    write_timeout: float = option(5.0, "how long the server may take to confirm what it was told", minimum=0.1)


class NatsTransport(Transport):
    """
    Serves ``nats://user:password@host:port``; for asyncio only.

    nats-py reconnects and subscribes again; then `receive` yields `Interrupted`. It hands messages to a
    callback, one subscription's in order; all go into one queue, which ``receive`` empties.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(ordered=True, max_frame_size=1024 * 1024)
    Options = NatsOptions

    def __init__(self, uri: TransportURI, node: str) -> None:
        super().__init__(uri, node)
        self._client = Client()
        self._subscriptions: dict[Partition, Subscription] = {}
        self._arrived: asyncio.Queue[Frame | Interrupted | None] = asyncio.Queue()
        self._fault: Exception | None = None
        self._rows = Rows(self._client, uri, self.options.write_timeout)
        if self.options.directory == "kv":
            self.directory = NatsDirectory(self._rows, uri.namespace)

    async def open(self) -> None:
        try:
            async with asyncio.timeout(self.options.connect_timeout):
                with translated(self.uri):
                    await self._connect()
        except TimeoutError as error:
            await self.aclose()
            raise translation(self.uri, self._fault or error) from error
        if self.directory:
            await self._rows.open()

    async def aclose(self) -> None:
        self._arrived.put_nowait(None)
        await self._client.close()

    async def join(self, partitions: Sequence[Partition]) -> None:
        with translated(self.uri):
            for partition in partitions:
                if partition not in self._subscriptions:
                    subscription = await self._client.subscribe(self._subject(partition), cb=self._on_message)
                    self._subscriptions[partition] = subscription
            await self._confirmed()

    async def leave(self, partitions: Sequence[Partition]) -> None:
        with translated(self.uri):
            for partition in partitions:
                if subscription := self._subscriptions.pop(partition, None):
                    await subscription.unsubscribe()

    async def publish(self, frames: Sequence[Frame]) -> None:
        with translated(self.uri):
            for partition, data in frames:
                await self._client.publish(self._subject(partition), data)
            await self._confirmed()

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        while (item := await self._arrived.get()) is not None:
            yield item

    async def _connect(self) -> None:
        port = "" if self.uri.port is None else f":{self.uri.port}"
        await self._client.connect(
            f"nats://{self.uri.host or 'localhost'}{port}",
            user=self.uri.username,
            password=self.uri.password,
            name=self.node,
            no_echo=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            ping_interval=self.options.ping_interval,
            error_cb=self._on_error,
            reconnected_cb=self._on_reconnected,
        )

    async def _confirmed(self) -> None:
        """Return once the server has taken in all that it was told before."""
        client = self._client
        async with asyncio.timeout(self.options.write_timeout):
            # nats-py sends a ping ahead of the commands that it holds back, so those have to be gone first;
            # and the answer to an abandoned ping would end its reader, hence the shield.
            while client.is_connected and client.pending_data_size:  # noqa: ASYNC110
                await asyncio.sleep(0)
            if not client.is_connected:
                raise nats.errors.ConnectionClosedError
            await asyncio.shield(client.flush(timeout=FOREVER))

    async def _on_message(self, message: Msg) -> None:
        partition = Partition(message.subject.removeprefix(self._subject(Partition(""))))
        self._arrived.put_nowait(Frame(partition, message.data))

    async def _on_reconnected(self) -> None:
        self._arrived.put_nowait(Interrupted(f"{self.uri} was connected again: {self._fault}"))

    async def _on_error(self, error: Exception) -> None:
        self._fault = error
        if isinstance(error, nats.errors.SlowConsumerError):
            self._arrived.put_nowait(Interrupted(f"frames were dropped here: {error}"))

    def _subject(self, partition: Partition) -> str:
        return f"eventbus.{self.uri.namespace}.{partition}"
