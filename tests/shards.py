"""Several independent servers of the tests' own, for ``redis+shards://``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Self

from eventbus import register
from eventbus_redis import RedisShardsTransport
from tests.servers import HOST, RedisServer

for scheme in ("redis+shards", "rediss+shards"):
    register(scheme, RedisShardsTransport)  # found in a source tree, too, whatever is installed


class Shards:
    """So many servers. As a context manager they start on entry, and stop on exit."""

    def __init__(self, directory: Path, count: int) -> None:
        self._directory = directory
        self._count = count
        self._stack = ExitStack()
        self.servers: list[RedisServer] = []

    def __enter__(self) -> Self:
        for number in range(self._count):
            folder = self._directory / f"shard-{number}"
            folder.mkdir()
            self.servers.append(self._stack.enter_context(RedisServer(folder)))
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.resume()
        self._stack.close()

    @property
    def uri(self) -> str:
        return f"redis+shards://{','.join(map(self.name, range(self._count)))}/0"

    def name(self, number: int) -> str:
        """Return what the transport calls the server of that *number*."""
        return f"{HOST}:{self.servers[number].port}"
