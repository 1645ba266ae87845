"""Takeover: how a client moves from one node to another, without a lost or doubled event."""

from __future__ import annotations

from typing import Final

import anyio
import attrs

from eventbus_core.backend import Owner
from eventbus_core.concurrency.signal import Signal
from eventbus_core.membership.barrier import Barrier
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.held_client import UNKNOWN, HeldClient
from eventbus_core.membership.ownership import Ownership
from eventbus_core.model.event import Event
from eventbus_core.model.names import is_identifier, is_other_node, node_address
from eventbus_core.model.numbers import Number
from eventbus_core.routing.table import RoutingTable
from eventbus_core.routing.undeliverable import UndeliverableReports

MOVED: Final = "$sys.moved"
TAKEN_OVER: Final = "$sys.taken-over"
HANDED_OVER: Final = "$sys.handed-over"
HANDOVER_TIMEOUT: Final = 1.0


@attrs.frozen
class Moved:
    """Tells a node that may still send to a former owner: *owner* has the client now."""

    client: str
    owner: Owner


@attrs.frozen
class TakenOver:
    """Tells a former owner that *node* took *client* over by a claim of *epoch*; the sender waits for the answer."""

    client: str
    epoch: Number
    node: str


class Handover:
    """A takeover whose former owner has not confirmed it yet."""

    def __init__(self, held: HeldClient, former: str) -> None:
        self.held = held
        self.former = former
        self.done = anyio.Event()


class Takeover:
    """
    Tells former owners of claims, and waits until they, or all nodes, have learned of them.

    Attributes:
        moved: called with a client, its former node, and the node to which that one forwards the client's events.
    """

    def __init__(
        self,
        channel: ControlChannel,
        ownership: Ownership,
        table: RoutingTable,
        barrier: Barrier,
        reports: UndeliverableReports,
    ) -> None:
        self.moved: Signal[[str, str, str]] = Signal()
        self._channel = channel
        self._ownership = ownership
        self._table = table
        self._barrier = barrier
        self._handovers: dict[str, Handover] = {}  # by the id of the message to the former owner
        self._ids: dict[HeldClient, str] = {}
        channel.on(MOVED, self._take_moved)
        channel.on(TAKEN_OVER, self._take_taken_over)
        channel.on(HANDED_OVER, self._take_handed_over)
        reports.on_control(TAKEN_OVER, self._settle)
        ownership.acquired.connect(self.begin)
        channel.batch_ended.connect(table.settle)

    def begin(self, held: HeldClient) -> None:
        """
        Tell the former owner of *held*; events that it forwards come before those that are sent here directly.

        If the former owner is not known, :meth:`finished` tells every node.
        """
        former = held.previous or UNKNOWN
        message = self._channel.message(TAKEN_OVER, former.node, TakenOver(held.name, held.epoch, self._channel.node))
        held.mailbox.hold_back()
        handover = self._handovers[message.id] = Handover(held, former.node)
        self._ids[held] = message.id
        if former is UNKNOWN:
            handover.done.set()
        else:
            self._channel.forward(former.node, message)

    async def finished(self, *clients: HeldClient) -> None:
        """
        Return once the former owners of *clients* have stopped handling their events.

        If one does not listen, or does not answer for too long, it forwards nothing any more: then every other node is
        told of the new owner, and this returns once they have processed that.

        Raises:
            TransportUnavailable: the directory cannot say which nodes are alive.
        """
        handovers = [self._handovers[id] for held in clients if (id := self._ids.get(held)) is not None]
        with anyio.move_on_after(HANDOVER_TIMEOUT):
            for handover in handovers:
                await handover.done.wait()
        late = [handover for handover in handovers if handover.held in self._ids]
        for handover in late:
            if handover.former:  # it forwards nothing any more
                self.end(handover.held)
            owner = Owner(self._channel.node, self._ownership.incarnation, handover.held.epoch)
            self._channel.send_all(MOVED, Moved(handover.held.name, owner))
        for former in dict.fromkeys(handover.former for handover in late):
            await self._barrier.passed(silent=former)
        for handover in late:
            self.end(handover.held)

    def unreached(self, node: str) -> None:
        """Stop waiting for the answers of *node*: it does not listen."""
        for handover in self._handovers.values():
            if handover.former == node:
                handover.done.set()

    def end(self, held: HeldClient) -> bool:
        """Stop waiting for the former owner of *held*; return whether it had not confirmed."""
        return self._settle(self._ids.get(held, ""))

    def tell_moved(self, node: str, client: str, owner: Owner) -> None:
        """Tell *node*, which sent an event for *client* to us, who owns it."""
        self._channel.send(node, MOVED, Moved(client, owner))

    def _settle(self, id: str) -> bool:
        handover = self._handovers.pop(id, None)
        if handover is not None:
            self._ids.pop(handover.held, None)
            handover.held.mailbox.let_through()
            handover.done.set()
        return handover is not None

    def _take_moved(self, message: Event) -> None:
        moved = message.decode(Moved)
        if not is_identifier(moved.owner.node):
            self._channel.reject(message, "names a node that cannot exist")
        elif moved.owner.node != self._channel.node:
            self._table.redirect(moved.client, moved.owner)
            if message.source != node_address(moved.owner.node):  # the former owner, which forwards what it has
                self.moved(moved.client, message.source[1:], moved.owner.node)
            self._ownership.supersede(moved.client, moved.owner.epoch, moved.owner.node)

    def _take_taken_over(self, message: Event) -> None:
        taken = message.decode(TakenOver)
        if not is_other_node(taken.node, self._channel.node):
            self._channel.reject(message, "names no other node")
            return
        self._table.redirect(taken.client, Owner(taken.node, 0, taken.epoch))
        self._ownership.supersede(taken.client, taken.epoch, taken.node)
        self._channel.send(taken.node, HANDED_OVER, message.id)

    def _take_handed_over(self, message: Event) -> None:
        self._settle(message.decode(str))
