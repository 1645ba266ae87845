"""The line of a node to one server: it reads on one connection, and publishes on another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias

from redis.exceptions import NoScriptError, ResponseError

from eventbus_core.backend import Disconnected, Frame, Interrupted, Outcome, Partition
from eventbus_core.errors import EventBusError
from eventbus_redis.channels import Channels
from eventbus_redis.commands import Commands
from eventbus_redis.errors import frame_refusal, frames_refused
from eventbus_redis.options import RedisOptions
from eventbus_redis.packing import load_script, pack, pack_frame, pack_publish
from eventbus_redis.server import Server
from eventbus_redis.subscriber import Subscriber

Packer: TypeAlias = Callable[[bytes, bytes], tuple[bytes, ...]]
"""Makes the command that publishes a frame, in pieces, of the name of its channel and its bytes."""

FRAMES_AHEAD: Final = 1000
"""Frames of several lines that wait for the reader of the transport before the lines stop reading."""
LOOK_EVERY: Final = 2.0
"""Seconds after which a line that publishes asks again whether its server has replicas."""


class Line:
    """
    The frames of one node by way of one server; errors are those of :class:`RedisTransport`.

    A lost connection is reopened, with growing pauses, until the line is closed.

    If the server has replicas, frames are published by a script. It keeps them out of the replication stream, and a
    server that would reject a write, since it is not the primary any more, rejects frames too: so a frame arrives only
    at receivers that its server counted.

    Args:
        keys: prefix of the names of the keys.
        replicated: whether the server counts as one that has replicas without being asked.

    Attributes:
        server: the server.
        root: first part of the names of its channels.
        publisher: the connection that publishes; also for other commands that rarely run.
    """

    def __init__(
        self,
        node: str,
        server: Server,
        options: RedisOptions,
        namespace: str,
        keys: str,
        *,
        replicated: bool = False,
    ) -> None:
        self.server = server
        # Channels are common to all databases, so their names carry the number of any but database 0.
        prefix = f"{options.prefix}/{server.database}" if server.database else options.prefix
        self.root = f"{prefix}:{namespace}"
        self._script = load_script("publish", "")
        self._pack_script: Packer = partial(pack_frame, self._script, f"{keys}:frames")
        self._replicated = replicated
        self._look_at = monotonic() + LOOK_EVERY  # it looks when it opens
        self._channels = Channels(self.root, node)
        self.publisher = Commands(server, options.command_timeout)
        self._subscriber = Subscriber(node, server, options, self._channels, self.publisher)

    @property
    def partitions(self) -> list[Partition]:
        """The partitions that are joined, or shall be once the server serves."""
        return [partition for partition in self._channels.wanted.values() if partition is not None]

    async def open(self) -> None:
        """Connect, so that faults are raised now."""
        await self.publisher.open()
        await self._subscriber.open()

    def close(self) -> None:
        """Disconnect at once; calls that wait raise, and :meth:`receive` ends."""
        self._subscriber.close()
        self.publisher.close()

    async def join(self, partitions: Sequence[Partition]) -> None:
        """See :meth:`Transport.join`."""
        await self._subscriber.join(partitions)

    async def leave(self, partitions: Sequence[Partition]) -> None:
        """See :meth:`Transport.leave`."""
        await self._subscriber.leave(partitions)

    def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        """See :meth:`Transport.receive`; what is yielded concerns all partitions of this line."""
        return self._subscriber.receive()

    def begin_publish(self, frames: Sequence[Frame]) -> Outcome | None:
        """See :meth:`Transport.begin_publish`; ``None`` too if frames are published by a script, or may have to be."""
        if self._replicated or self.server.replicas or monotonic() >= self._look_at:
            return None
        replies = self.publisher.begin(self._packed(frames, pack_publish), len(frames))
        return None if replies is None else partial(self._publish, frames, pack_publish, replies)

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int]:
        """See :meth:`Transport.publish`; one call at a time."""
        if not self._replicated and monotonic() >= self._look_at:
            await self.publisher.check_role()
            self._look_at = monotonic() + LOOK_EVERY
        if not (self._replicated or self.server.replicas):
            return await self._publish(frames, pack_publish)
        try:
            return await self._publish(frames, self._pack_script)
        except EventBusError as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        await self.publisher.call(pack("SCRIPT", "LOAD", self._script.source))
        return await self._publish(frames, self._pack_script)

    async def _publish(
        self, frames: Sequence[Frame], packer: Packer, begun: Callable[[], Awaitable[list[Any]]] | None = None
    ) -> Sequence[int]:
        receivers: list[int] = []
        refusal: EventBusError | None = None
        while len(receivers) < len(frames):
            rest = frames[len(receivers) :]
            replies = begun() if begun is not None else self.publisher.send(self._packed(rest, packer), len(rest))
            begun = None
            # Fewer replies than frames: the server hung up on the last frame that it answered for.
            for reply in await replies:
                if isinstance(reply, ResponseError):
                    error = frame_refusal(self.server.uri, reply)
                    refusal, reply = refusal or error, -1
                receivers.append(reply)
        if refusal is not None:
            raise frames_refused(frames, receivers, refusal)
        return receivers

    def _packed(self, frames: Sequence[Frame], packer: Packer) -> list[bytes]:
        pieces: list[bytes] = []
        for partition, data in frames:
            pieces += packer(self._channels.name(partition), data)
        return pieces
