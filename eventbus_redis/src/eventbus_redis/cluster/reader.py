"""Reads the frames of a cluster: it keeps each wanted channel joined at the primary of its slot."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final

from redis.exceptions import ResponseError

from eventbus_core.backend import Address, Disconnected, Frame, Interrupted, Partition, get_logger
from eventbus_core.errors import ConfigurationError, EventBusError, PartitionRefused, TransportUnavailable
from eventbus_redis.cluster.line_requests import Answer, Kind
from eventbus_redis.cluster.names import Names
from eventbus_redis.cluster.primary_line import Channel, PrimaryLine
from eventbus_redis.cluster.slots import key_slot
from eventbus_redis.cluster.tasks import Tasks
from eventbus_redis.cluster.topology import Topology
from eventbus_redis.errors import translate
from eventbus_redis.line import FRAMES_AHEAD
from eventbus_redis.options import RedisOptions

logger = get_logger("eventbus.redis")

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
MAX_REDIRECTIONS: Final = 3
"""Redirections that a channel follows at once; then the servers are asked who owns its slot."""
RETRY_REFUSED: Final = 5.0
"""Seconds until channels that the server refused are tried again."""


class ClusterReader:
    """
    Reads the frames of the wanted channels, on one line to each primary that owns any of their slots.

    A channel that loses its subscription is joined again where its slot is now, and reported as interrupted; the
    others go on. Redirections are followed at once. In all other cases several servers are asked, as often as it takes.

    A channel has one line at most (:attr:`Channel.line`); what another line says of it is ignored. It is joined, or
    refused, or it is asked for on its line, or the task that looks after channels is at work.
    """

    def __init__(self, node: str, topology: Topology, options: RedisOptions, names: Names) -> None:
        self._node = node
        self._topology = topology
        self._options = options
        self._names = names
        self._channels: dict[bytes, Channel] = {}
        self._lines: dict[Address, PrimaryLine] = {}
        self._running: dict[PrimaryLine, asyncio.Task[None]] = {}
        self._arrived: deque[Frame | Interrupted | Disconnected] = deque()
        self._regained: list[Channel] = []
        self._readable = asyncio.Event()
        self._space_freed = asyncio.Event()
        self._joining = 0
        self._tasks = Tasks(self._readable.set)
        self._changed = asyncio.Event()
        self._trouble = asyncio.Event()
        self._fault: EventBusError | None = None
        self._told: set[tuple[type[EventBusError], str]] = set()  # of this trouble
        self._closed = False

    def open(self) -> None:
        """Begin to look after the channels."""
        self._tasks.start(self._tend())

    async def aclose(self) -> None:
        """Close all lines; :meth:`receive` ends."""
        self._closed = True
        self._readable.set()
        self._notify()
        await self._tasks.aclose()

    async def join(self, partitions: Sequence[Partition]) -> None:
        """
        Return once the primaries have confirmed the channels of *partitions*; otherwise this has no effect.

        Raises:
            TransportUnavailable: they did not confirm them within ``command_timeout``.
            PartitionRefused: the user has no right to some of them, or to a command.
        """
        self._check_open()
        named = {self._names.channel(partition): partition for partition in partitions}
        new = [self._new_channel(name, partition) for name, partition in named.items() if name not in self._channels]
        channels = [self._channels[name] for name in named]
        self._joining += 1
        self._space_freed.set()  # the confirmations are behind the frames
        try:
            async with asyncio.timeout(self._options.command_timeout):
                for channel in channels:
                    if channel in new or channel.refused is not None:
                        self._place(channel)
                await self._confirmed(channels)
        except BaseException as error:
            self._drop(new)
            if isinstance(error, TimeoutError):
                why = self._fault or f"{self._topology.uri} gives no answer"
                raise TransportUnavailable(f"a subscription was not confirmed in time: {why}") from self._fault
            raise
        finally:
            self._joining -= 1

    def leave(self, partitions: Sequence[Partition]) -> None:
        """Unsubscribe from the channels of *partitions*; frames of theirs that still arrive are dropped."""
        names = map(self._names.channel, partitions)
        self._drop([channel for name in names if (channel := self._channels.get(name)) is not None])

    async def receive(self) -> AsyncIterator[Frame | Interrupted | Disconnected]:
        """Yield frames, and which partitions cannot be read, or can be read again."""
        arrived = self._arrived
        while arrived or not self._closed:
            while arrived:
                yield arrived.popleft()
            self._space_freed.set()
            self._tasks.check()
            self._readable.clear()
            if not self._closed:
                await self._readable.wait()

    def suspect(self, address: Address) -> None:
        """Have other servers asked whether the one at *address* still is a primary."""
        if (line := self._lines.get(address)) is not None:
            line.suspected = True
        self._trouble.set()

    # Called by lines.

    async def space(self) -> None:
        while len(self._arrived) >= FRAMES_AHEAD and not self._joining:
            self._space_freed.clear()
            await self._space_freed.wait()

    def arrived(self, frame: Frame) -> None:
        self._arrived.append(frame)

    def answered(self, line: PrimaryLine, answer: Answer) -> None:
        self._notify()
        if answer.kind is Kind.PROBE:
            self._on_probe(line, key_slot(answer.name), answer.error)
            return
        channel = self._channels.get(answer.name)
        if channel is None or channel.line is not line:
            return
        if answer.kind is Kind.ENDED:
            if channel.joined:
                self._lose(channel, f"{line.address} has ended the subscription to {_shown(channel)}")
            self._place(channel)
        elif answer.error is not None:
            self._on_rejection(line, channel, answer.error)
        elif answer.kind is Kind.JOIN:
            channel.joined, channel.redirections, channel.refused = True, 0, None
            if channel.lost:
                self._regained.append(channel)

    def heard(self, line: PrimaryLine) -> None:
        if self._regained:
            regained, self._regained = [channel for channel in self._regained if channel.joined], []
            for reason in dict.fromkeys(channel.lost for channel in regained):
                same = [channel for channel in regained if channel.lost == reason]
                self._arrived.append(Interrupted(reason, [channel.partition for channel in same]))
            for channel in regained:
                channel.lost, channel.told = "", False
        if line.suspected:
            self._trouble.set()
        if self._arrived:
            self._readable.set()

    def ended(self, line: PrimaryLine, error: EventBusError) -> None:
        if self._lines.get(line.address) is line:
            del self._lines[line.address]
        self._running.pop(line, None)
        self._fault = error
        for channel in [channel for channel in self._channels.values() if channel.line is line]:
            self._lose(channel, str(error))
            channel.line = None
            if line.lasted:
                self._place(channel)
        self._trouble.set()
        self._notify()

    # Decisions about channels.

    def _on_probe(self, line: PrimaryLine, slot: int, error: ResponseError | None) -> None:
        if error is None or ((found := self._topology.follow(line.address, error)) is not None and found.once):
            line.suspected = False  # a slot that is being moved away is still served here
            return
        channels = [channel for channel in self._channels.values() if channel.line is line and channel.slot == slot]
        if found is None and self._denied(line, channels, error):
            return
        # Without a redirection this is a suspicion, but no reason to leave: a healthy primary says CLUSTERDOWN too.
        line.suspected = found is None or any(channel.joined for channel in channels)
        if found is not None:
            for channel in channels:
                self._lose(channel, f"{line.address} is not the primary of slot {slot} any more")
                self._redirect(channel)

    def _on_rejection(self, line: PrimaryLine, channel: Channel, error: ResponseError) -> None:
        self._lose(channel, f"{line.address} rejects the subscription to {_shown(channel)}")
        if self._topology.follow(line.address, error) is not None:
            self._redirect(channel)
        elif not self._denied(line, [channel], error):
            self._fault, _ = translate(self._topology.server(line.address).uri, error)
            self._send_off(channel)

    def _denied(self, line: PrimaryLine, channels: Sequence[Channel], error: ResponseError) -> bool:
        """Note that the server denies this user *channels*, if that is what *error* says."""
        ours, _ = translate(self._topology.server(line.address).uri, error)
        denied = isinstance(ours, ConfigurationError)
        for channel in channels if denied else ():
            self._send_off(channel)
            channel.refused = ours
        return denied

    def _redirect(self, channel: Channel) -> None:
        channel.redirections += 1
        if channel.redirections <= MAX_REDIRECTIONS:
            self._place(channel)
        else:  # the servers do not agree yet
            self._send_off(channel)

    def _lose(self, channel: Channel, reason: str) -> None:
        if channel.joined:
            channel.joined, channel.lost = False, channel.lost or reason

    def _place(self, channel: Channel) -> None:
        """Ask the primary of the channel's slot, as far as known, for the subscription."""
        owner = self._topology.owner(channel.slot)
        line = None if owner is None else self._line(owner)
        if channel.line is not line:
            self._take_off(channel)
        channel.line, channel.refused = line, None
        if line is None:
            self._trouble.set()
        else:
            line.add(channel)

    def _send_off(self, channel: Channel) -> None:
        """Take *channel* off its line, and have several servers asked where it belongs."""
        self._take_off(channel)
        self._trouble.set()

    def _take_off(self, channel: Channel) -> None:
        """Take *channel* off its line; it has none then."""
        if channel.line is not None:
            channel.line.remove(channel)
            channel.line = None

    def _drop(self, channels: Sequence[Channel]) -> None:
        for channel in channels:
            self._channels.pop(channel.name, None)
            self._take_off(channel)
        self._close_empty_lines()

    def _new_channel(self, name: bytes, partition: Partition) -> Channel:
        slot = self._names.slot(partition)
        channel = self._channels[name] = Channel(partition, slot, name, self._names.probe(slot))
        return channel

    def _line(self, address: Address) -> PrimaryLine:
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = PrimaryLine(address, self._topology.server(address), self._options, self)
            self._running[line] = self._tasks.start(line.run())
            self._trouble.set()  # if its host is gone, a join would fail before the attempt to connect does
        return line

    async def _confirmed(self, channels: Sequence[Channel]) -> None:
        while not all(channel.joined for channel in channels):
            self._check_open()
            if refused := [channel for channel in channels if channel.refused is not None]:
                text = f"cannot subscribe to {', '.join(map(_shown, refused))}: {refused[0].refused}"
                raise PartitionRefused(text, [channel.partition for channel in refused])
            await self._changed.wait()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportUnavailable(f"the transport to {self._topology.uri} is closed")

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # The task that looks after channels that nothing else brings back.

    async def _tend(self) -> None:
        while True:
            await self._wait_for_trouble()
            pause = FIRST_PAUSE
            while True:
                try:
                    await self._topology.refresh()
                except EventBusError as error:
                    self._note(error)
                self._settle()
                if not self._in_trouble():
                    break
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)
                self._tell_lost()
            self._fault = None
            self._told.clear()

    async def _wait_for_trouble(self) -> None:
        refused = any(channel.refused is not None for channel in self._channels.values())
        try:
            async with asyncio.timeout(RETRY_REFUSED if refused else None):
                await self._trouble.wait()
        except TimeoutError:
            for channel in list(self._channels.values()):
                if channel.refused is not None:
                    self._place(channel)
        self._trouble.clear()

    def _in_trouble(self) -> bool:
        return any(line.suspected for line in self._lines.values()) or any(
            not channel.joined and channel.refused is None for channel in self._channels.values()
        )

    def _settle(self) -> None:
        """Move each channel that is not safe where it is to the primary of its slot."""
        for channel in list(self._channels.values()):
            line = channel.line
            if channel.refused is not None or (channel.joined and line is not None and not line.suspected):
                continue
            owner = self._topology.owner(channel.slot)
            if line is None or (owner is not None and owner != line.address):
                self._lose(channel, f"slot {channel.slot} has moved from {line.address if line else 'a server'}")
                self._place(channel)
        self._close_empty_lines()

    def _close_empty_lines(self) -> None:
        for line in [line for line in self._lines.values() if line.empty]:
            del self._lines[line.address]
            self._running.pop(line).cancel()

    def _tell_lost(self) -> None:
        lost = [channel for channel in self._channels.values() if channel.lost and not (channel.joined or channel.told)]
        if lost:
            for channel in lost:
                channel.told = True
            reason = str(self._fault or lost[0].lost)
            self._arrived.append(Disconnected(reason, [channel.partition for channel in lost]))
            self._readable.set()

    def _note(self, error: EventBusError) -> None:
        kind = type(error), str(error).partition(": ")[0]  # what follows may name other servers each time
        if kind not in self._told:
            self._told.add(kind)
            logger.warning("node %s: %s", self._node, error, extra={"node": self._node, "error": str(error)})
        self._fault = error


def _shown(channel: Channel) -> str:
    return channel.name.decode(errors="replace")
