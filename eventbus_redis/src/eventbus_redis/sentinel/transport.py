"""The Redis transport whose server is named by sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

import anyio
import attrs

from eventbus_core.backend import Address, Finding, Role, TransportURI, get_logger
from eventbus_core.errors import ConfigurationError, TransportUnavailable
from eventbus_redis.access_rules import sentinel_rules
from eventbus_redis.checks import check_server
from eventbus_redis.connection import Connection
from eventbus_redis.options import SentinelOptions
from eventbus_redis.sentinel.findings import check_sentinels
from eventbus_redis.sentinel.watch import Sentinels
from eventbus_redis.server import HELLO, Server
from eventbus_redis.transport import RedisTransport

logger = get_logger("eventbus.redis")


class ServiceServer(Server):
    """
    The primary of a service, wherever it is now.

    Attributes:
        uri: the URI of the sentinels, and once a primary is known, its own.
        sentinels: those that name it.
    """

    def __init__(self, uri: TransportURI, options: SentinelOptions, node: str, *, any_role: bool = False) -> None:
        service, _, database = uri.path.removeprefix("/").partition("/")
        if not service:
            raise ConfigurationError(f"{uri} names no service; write {uri.scheme}://host1,host2,host3/service/0")
        super().__init__(attrs.evolve(uri, path=f"/{database}"), options, any_role=any_role)
        self.uri = uri
        self.sentinels = Sentinels(uri, service, options, self._leave)
        self._moved = asyncio.Event()
        self._node = node
        self._service = service
        self._scheme = uri.scheme.partition("+")[0]

    async def connect(self, patience: float, *, hello: bytes = HELLO) -> Connection:
        address = await self.sentinels.primary()
        if self.uri.hosts != (address,):
            self.uri = attrs.evolve(self.uri, scheme=self._scheme, hosts=(address,), path=f"/{self.database}")
        connection = await super().connect(patience, hello=hello)
        try:
            if await self.sentinels.primary() != address:  # they changed their mind before it was one to close
                raise TransportUnavailable(f"{self.uri} is not the primary of {self._service!r} any more")
        except TransportUnavailable:
            connection.close()
            raise
        return connection

    async def pause(self, seconds: float) -> None:
        """Wait before another attempt to connect, but not once the sentinels name another primary."""
        with anyio.move_on_after(seconds):
            await self._moved.wait()

    def _leave(self, primary: Address) -> None:
        reason = f"{self.uri} is not the primary of {self._service!r} any more: the sentinels name {primary}"
        logger.warning("node %s leaves its server: %s", self._node, reason, extra={"node": self._node, "error": reason})
        self.close(reason)
        self._moved.set()
        self._moved = asyncio.Event()


class SentinelTransport(RedisTransport):
    """
    Serves ``redis+sentinel://`` and ``rediss+sentinel://``: the primary of a service that Redis Sentinel watches.

    All sentinels that the URI names are followed, and when they name another primary, all connections to the former
    one are closed at once. Frames are not sent to replicas. A server that would reject a write, since it is not the
    primary any more, rejects frames too: so their counts are facts.

    Errors: see :class:`RedisTransport`.
    """

    Options: ClassVar[type[Any]] = SentinelOptions
    _replicated: ClassVar[bool] = True
    _server: ServiceServer

    async def aclose(self) -> None:
        await super().aclose()
        await self._server.sentinels.aclose()

    def access_rules(self, role: Role, node: str) -> Mapping[str, str]:
        (rules,) = super().access_rules(role, node).values()
        return {"on each server of the service": rules, "on each sentinel": sentinel_rules()}

    async def diagnose(self) -> list[Finding]:
        server = self._make_server(any_role=True)
        try:
            basic = await check_server(server, self.options, self._keys, self._line.root)
            return [*basic, *await check_sentinels(server, server.sentinels, self.options.command_timeout)]
        finally:
            await server.sentinels.aclose()

    def _make_server(self, *, any_role: bool = False) -> ServiceServer:
        return ServiceServer(self.uri, self.options, self.node, any_role=any_role)
