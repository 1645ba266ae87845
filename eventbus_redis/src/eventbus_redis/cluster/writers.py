"""Publishes frames in a cluster, on one connection to each primary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from eventbus_core.backend import Frame
from eventbus_core.errors import EventBusError, TransportUnavailable
from eventbus_redis.cluster.names import Names
from eventbus_redis.cluster.suspicions import Suspicions
from eventbus_redis.cluster.topology import Topology
from eventbus_redis.commands import Commands
from eventbus_redis.errors import frame_refusal, frames_refused
from eventbus_redis.packing import SPUBLISH, pack, pack_publish
from eventbus_redis.server import Server

MAX_ROUNDS: Final = 4
"""How often frames are sent in one call: once, and again after each redirection."""


class Writers:
    """
    Publishes at the primary of each frame's slot, and follows its redirections.

    A demoted primary goes on taking frames and counts no receivers, though they arrive; one that is cut off takes them
    too, and they do not. But neither lets anyone read a key: so a key in the slot of the first frame is read before the
    frames and behind them, and the numbers of receivers count only if the server has answered both times.
    """

    def __init__(self, topology: Topology, names: Names, timeout: float, suspicions: Suspicions) -> None:
        self._topology = topology
        self._names = names
        self._timeout = timeout
        self._suspicions = suspicions
        self._writers: dict[Server, Commands] = {}
        self._closed = False

    def close(self) -> None:
        """Disconnect; callers that wait for replies get :class:`TransportUnavailable`."""
        self._closed = True
        for writer in self._writers.values():
            writer.close()

    async def publish(self, frames: Sequence[Frame]) -> Sequence[int] | None:
        """
        Publish *frames*; return their numbers of receivers, or ``None`` if they are not known for sure.

        Raises:
            TransportUnavailable: any number of the frames may have been taken.
            PartitionRefused: see :meth:`Transport.publish`.
        """
        tally = Tally(frames)
        for _ in range(MAX_ROUNDS):
            groups: dict[Server, list[int]] = {}
            for place in tally.waiting():
                server = self._topology.primary(self._names.slot(frames[place].partition))
                groups.setdefault(server, []).append(place)
            if not groups:
                return tally.outcome()
            for server, places in groups.items():
                await self._send(server, places, tally)
        raise TransportUnavailable(f"the servers of {self._topology.uri} do not agree on the owner of a slot")

    async def _send(self, server: Server, places: Sequence[int], tally: Tally) -> None:
        frames, names = tally.frames, self._names
        guard = pack("GET", names.probe(names.slot(frames[places[0]].partition)))
        pieces = [guard]
        for place in places:
            pieces += pack_publish(names.channel(frames[place].partition), frames[place].data, SPUBLISH)
        pieces.append(guard)
        with self._suspicions.about(server.address):
            before, *replies = await self._writer(server).send(pieces, len(places) + 2)
        # Fewer replies than commands: the server hung up on the last frame that it answered for.
        after = replies.pop() if len(replies) > len(places) else None
        for place, reply in zip(places, replies, strict=False):
            self._take(server, place, reply, tally)
        if not (self._vouches(server, before) and self._vouches(server, after)):
            tally.exact = False
            self._suspicions.raise_about(server.address)

    def _take(self, server: Server, place: int, reply: Any, tally: Tally) -> None:
        """Record the *reply* to one frame; after a redirection the frame goes on waiting."""
        if not isinstance(reply, ResponseError):
            tally.taken(place, reply)
        elif self._topology.follow(server.address, reply) is None:
            try:
                tally.refused(place, frame_refusal(server.uri, reply))
            except EventBusError:
                self._suspicions.raise_about(server.address)
                raise

    def _vouches(self, server: Server, reply: Any) -> bool:
        """Return whether *reply* to the read of a key shows that *server* is the primary of its slot."""
        if not isinstance(reply, ResponseError):
            return True
        found = self._topology.follow(server.address, reply)
        return found is not None and found.once  # a slot that is being moved away is still served here

    def _writer(self, server: Server) -> Commands:
        writer = self._writers.get(server)
        if writer is None:
            for former in [known for known in self._writers if not self._topology.knows(known)]:
                self._writers.pop(former).close()
            writer = self._writers[server] = Commands(server, self._timeout)
            if self._closed:
                writer.close()
        return writer


class Tally:
    """
    What became of each frame of a call.

    Attributes:
        exact: whether the numbers of receivers are those of primaries.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = frames
        self.exact = True
        self._counts: list[int | None] = [None] * len(frames)
        self._refusal: EventBusError | None = None

    def waiting(self) -> list[int]:
        """Return the places of the frames that no server has taken or refused yet, in their order."""
        return [place for place, count in enumerate(self._counts) if count is None]

    def taken(self, place: int, receivers: int) -> None:
        """Note that the frame at *place* had so many *receivers*."""
        self._counts[place] = receivers

    def refused(self, place: int, error: EventBusError) -> None:
        """Note that the server refuses the frame at *place* for good."""
        self._counts[place] = -1
        self._refusal = self._refusal or error

    def outcome(self) -> Sequence[int] | None:
        """
        Return how many receivers each frame had; ``None`` if that is not known.

        Raises:
            PartitionRefused: a server refuses some of the frames.
        """
        counts = [count for count in self._counts if count is not None]
        if self._refusal is None:
            return counts if self.exact else None
        known = counts if self.exact else [count or 1 for count in counts]  # zero would be a fact
        raise frames_refused(self.frames, known, self._refusal)
