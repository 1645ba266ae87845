"""The frame reader: takes frames from the transport, checks them, and passes on those whose turn has come."""

from __future__ import annotations

from collections.abc import Set
from time import monotonic
from typing import Final

from anyio.lowlevel import checkpoint

from eventbus_core.backend import ALL_NODES, Disconnected, Frame, Interrupted, Transport, node_partition
from eventbus_core.concurrency.closing_iterator import closing_iterator
from eventbus_core.concurrency.signal import Signal
from eventbus_core.errors import FrameError
from eventbus_core.mailbox.handler_scheduler import HandlerScheduler
from eventbus_core.model.names import is_known_identifier
from eventbus_core.node.delivery import Delivery
from eventbus_core.observability.histogram import SHORTEST, Spread
from eventbus_core.observability.log import get_logger
from eventbus_core.observability.rejections import LEFT, Rejections
from eventbus_core.outbox.outbox import Outbox
from eventbus_core.session.registry import Sessions
from eventbus_core.session.wire import unpack

logger = get_logger("eventbus")

RECEIVED_PER_TURN: Final = 256
FRAMES_PER_TURN: Final = 32


class Receiver:
    """
    Reads frames and has their events delivered.

    Attributes:
        frames: received from other nodes.
        interruptions: how often the transport said that frames may have been lost.
        seconds: of each frame, from its arrival until its deliveries were handled.
        namesake: called with the incarnation of another node that has our id.
        disconnected: called with the reason when the transport cannot read some partitions for now.
        connected: called when it can read all of them again.
        interrupted: called when the transport may have lost frames.
        missed: called when these may have been for this node, or for all: other nodes' claims among them.
    """

    def __init__(
        self,
        namespace: str,
        transport: Transport,
        sessions: Sessions,
        scheduler: HandlerScheduler,
        delivery: Delivery,
        outbox: Outbox,
        lanes: Set[str],
        rejections: Rejections,
    ) -> None:
        self.frames = self.interruptions = 0
        self.seconds = Spread(SHORTEST)
        self.namesake: Signal[[int]] = Signal()
        self.disconnected: Signal[[str]] = Signal()
        self.connected: Signal[[]] = Signal()
        self.interrupted: Signal[[]] = Signal()
        self.missed: Signal[[]] = Signal()
        self._namespace = namespace
        self._transport = transport
        self._node = transport.node
        self._sessions = sessions
        self._sealed = sessions.sealed
        self._scheduler = scheduler
        self._delivery = delivery
        self._outbox = outbox
        self._lanes = lanes  # partitions of lanes that this node listens to
        self._rejections = rejections
        self._accepted: Set[str] = frozenset((node_partition(transport.node), ALL_NODES))
        self._unreadable: Set[str] = frozenset()
        self._limit = transport.capabilities.max_frame_size
        sessions.when_handled(lambda since: self.seconds.add(monotonic() - since))

    async def run(self) -> None:
        """Read until the transport is closed."""
        scheduler, delivery = self._scheduler, self._delivery
        turn = frames = 0
        async with closing_iterator(self._transport.receive()) as items:
            async for item in items:
                if isinstance(item, Frame):
                    scheduler.begin_turn()
                    self._on_frame(item)
                    scheduler.run_ready()
                elif isinstance(item, Interrupted):
                    self._on_interruption(item)
                else:
                    self._on_disconnection(item)
                frames += 1
                if delivery.events - turn >= RECEIVED_PER_TURN or frames >= FRAMES_PER_TURN or scheduler.turn_over():
                    turn, frames = delivery.events, 0
                    await checkpoint()

    def tend(self, now: float) -> None:
        """Do what is due in the sessions."""
        for item in self._sessions.tend(now):
            self._delivery.deliver(item)

    def _on_disconnection(self, item: Disconnected) -> None:
        self._unreadable |= self._joined if item.partitions is None else set(item.partitions)
        self.disconnected(item.reason)
        self._check_readable()

    def _on_interruption(self, item: Interrupted) -> None:
        partitions = None if item.partitions is None else set(item.partitions)
        text = "node %s: frames may have been lost (%s); asking the other nodes for them"
        logger.info(text, self._node, item.reason, extra={"node": self._node, "error": item.reason})
        self.interruptions += 1
        self._unreadable = frozenset() if partitions is None else self._unreadable - partitions
        self._check_readable()
        self.interrupted()
        if partitions is None or partitions & self._accepted:
            self.missed()
        self._sessions.interrupted(partitions)

    def _check_readable(self) -> None:
        """Say so if all that cannot be read has been left by now."""
        self._unreadable &= self._joined
        if not self._unreadable:
            self.connected()

    @property
    def _joined(self) -> Set[str]:
        return self._accepted | self._lanes

    def _on_frame(self, frame: Frame) -> None:
        now = monotonic()
        try:
            header, body = unpack(frame.data, self._limit, sealed=self._sealed)
            if header.namespace != self._namespace:
                raise FrameError("foreign", f"it is of namespace {header.namespace!r}")
            if not is_known_identifier(header.node):
                raise FrameError("malformed", "the name of its sender is not a valid node id")
        except FrameError as error:
            self._rejections.add(error.kind, error)
            return
        if header.node == self._node:  # our own frames were delivered here when they were sent
            if header.incarnation != self._sessions.incarnation:
                self.namesake(header.incarnation)
            return
        if header.partition not in self._accepted and header.partition not in self._lanes:
            self._rejections.add(LEFT, f"a frame of {header.node} to {header.partition}")
            return
        self.frames += 1
        for item in self._sessions.receive(header, body, now):
            self._delivery.deliver(item)
        if header.notes:
            self._outbox.wake()
