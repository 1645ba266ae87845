"""A connection for commands whose keys all lie in one slot of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from eventbus_redis.cluster.suspicions import Suspicions
from eventbus_redis.cluster.topology import Topology
from eventbus_redis.commands import Commands

MAX_REDIRECTIONS: Final = 4


class SlotCommands(Commands):
    """
    The connection to the primary of one slot, which follows it to another server.

    Commands that were all redirected were not executed, so they are sent again. If only some were, or the keys of the
    slot are just being moved (ASK, TRYAGAIN), the call fails as if the connection had broken.
    """

    def __init__(self, topology: Topology, slot: int, timeout: float, suspicions: Suspicions) -> None:
        super().__init__(topology.pattern, timeout)
        self._topology = topology
        self._slot = slot
        self._suspicions = suspicions

    async def _exchange(self, pieces: Sequence[bytes], count: int) -> list[Any]:
        replies: list[Any] = []
        for _ in range(MAX_REDIRECTIONS):
            with self._suspicions.about(self._server.address):
                replies = await super()._exchange(pieces, count)
            errors = [reply for reply in replies if isinstance(reply, ResponseError)]
            found = [self._topology.follow(self._server.address, error) for error in errors]
            if len(errors) < count or any(led is None or led.once for led in found):
                break
        return replies

    def _connected(self) -> bool:
        return super()._connected() and self._server is self._topology.primary(self._slot)

    async def _connect(self) -> None:
        self._server = self._topology.primary(self._slot)
        await super()._connect()
