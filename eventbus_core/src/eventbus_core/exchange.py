"""What nodes tell each other about the events and clients of their applications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
import attrs
from msgspec.structs import replace

from eventbus_core.asking import AskingDirectory
from eventbus_core.errors import EventDataError, RequestFailed
from eventbus_core.event import Event
from eventbus_core.hearing import HEAR, HEARD, Hearing
from eventbus_core.holding import Holding
from eventbus_core.inquiry import ALIVE, ANSWER, GONE, QUESTION, SUPERSEDED
from eventbus_core.losses import Undeliverable
from eventbus_core.names import RESERVED, is_identifier, is_other_node
from eventbus_core.ownership import Ownership
from eventbus_core.refusals import OWN, Refusals
from eventbus_core.requests import Requests
from eventbus_core.routing import MOVED, UNDELIVERABLE, Moved, Router
from eventbus_core.stats import Stats
from eventbus_core.transport import Owner
from eventbus_core.wire import Number

TAKEN_OVER: Final = "$sys.taken-over"
HANDED_OVER: Final = "$sys.handed-over"
STATS: Final = "$sys.stats"
FAILURE: Final = "$sys.failure"
HANDOVER_TIMEOUT: Final = 1.0
MAX_REASONS: Final = 20
"""Of different reasons for which events are undeliverable: they come from other nodes, who may say anything."""


@attrs.frozen
class TakenOver:
    """What a node tells the one from which it took *client* over, by a claim of *epoch*; it waits for the answer."""

    client: str
    epoch: Number
    node: str


class Exchange:
    """Takes the events that are for this node itself and no application; each is an event like any other."""

    def __init__(
        self,
        router: Router,
        ownership: Ownership,
        requests: Requests,
        hearing: Hearing,
        on_undeliverable: Callable[[Undeliverable], None],
        stats: Callable[[], Stats],
        asking: AskingDirectory | None,
        refusals: Refusals,
    ) -> None:
        self._refusals = refusals
        self._router = router
        self._ownership = ownership
        self._requests = requests
        self._on_undeliverable = on_undeliverable
        self._stats = stats
        self._hearing = hearing
        self._handovers: dict[str, tuple[Holding, anyio.Event]] = {}
        self._kinds: dict[str, Callable[[Event], None]] = {
            MOVED: self._moved,
            TAKEN_OVER: self._taken_over,
            HANDED_OVER: self._handed_over,
            UNDELIVERABLE: self._undeliverable,
            STATS: self._tell_stats,
            HEAR: hearing.answer,
            HEARD: hearing.take,
        }
        if asking is not None:
            self._kinds |= dict.fromkeys((ALIVE, GONE, QUESTION, ANSWER, SUPERSEDED), asking.take)

    def take(self, event: Event) -> bool:
        """Take *event* if it is for the node itself; return whether it was."""
        kind = self._kinds.get(event.type) if event.answers is None else None
        if kind is None and event.answers is None:
            return False
        try:
            if kind is None:
                outcome = RequestFailed(event.source, str(event.data)) if event.type == FAILURE else event
                self._requests.settle(event.answers, outcome)
            else:
                kind(event)
        except EventDataError as error:
            self._refusals.add(OWN, error)
        return True

    def took_over(self, holding: Holding) -> None:
        """Tell the node that held the client of *holding* before that it does no more."""
        previous = holding.previous
        if previous is not None:
            event = self._router.own_event(
                TAKEN_OVER, previous.node, TakenOver(holding.name, holding.epoch, self._router.node)
            )
            holding.handover = event.id
            holding.mailbox.hold_back()
            self._handovers[event.id] = holding, anyio.Event()
            self._router.forward(previous.node, event)

    async def handed_over(self, holding: Holding) -> None:
        """
        Return once the node that held the client before does so no more.

        If it does not listen, or is silent for too long, it cannot pass anything on: then every other node is told who
        has the client now, and this returns once they have heard it.

        Raises:
            TransportUnavailable: nobody can say who the others are.
        """
        if (under_way := self._handovers.get(holding.handover)) and holding.previous is not None:
            with anyio.move_on_after(HANDOVER_TIMEOUT):
                await under_way[1].wait()
            if self.settle_handover(holding.handover):
                owner = Owner(self._router.node, self._ownership.incarnation, holding.epoch)
                self._router.tell_all(MOVED, Moved(holding.name, owner))
                await self._hearing.heard(silent=holding.previous.node)

    def unreached(self, node: str) -> None:
        """Wait no longer for the word of *node*: it does not listen."""
        for holding, done in self._handovers.values():
            if holding.previous is not None and holding.previous.node == node:
                done.set()

    def fail(self, request: Event, reason: str) -> None:
        """Tell the one who waits for the answer to *request* that there will be none."""
        if (node := request.asker) is not None:
            answer = replace(self._router.own_event(FAILURE, node, reason), answers=request.id)
            self._to(node, answer)

    def _tell_stats(self, event: Event) -> None:
        if (node := event.asker) is not None:
            self._to(node, replace(self._router.own_event(STATS, node, self._stats()), answers=event.id))

    def _to(self, node: str, event: Event) -> None:
        if node == self._router.node:
            self.take(event)
        else:
            self._router.forward(node, event)

    def _moved(self, event: Event) -> None:
        moved = event.decode(Moved)
        if not is_identifier(moved.owner.node):
            self._refusals.add(OWN, f"{event!r} names a node that cannot be")
        elif moved.owner.node != self._router.node:
            self._router.routes.remember(moved.client, moved.owner)
            self._ownership.supersede(moved.client, moved.owner.epoch, moved.owner.node)

    def _taken_over(self, event: Event) -> None:
        taken = event.decode(TakenOver)
        if not is_other_node(taken.node, self._router.node):
            self._refusals.add(OWN, f"{event!r} names no other node")
            return
        self._router.routes.remember(taken.client, Owner(taken.node, 0, taken.epoch))
        self._ownership.supersede(taken.client, taken.epoch, taken.node)
        self._router.tell_node(taken.node, HANDED_OVER, event.id)

    def _handed_over(self, event: Event) -> None:
        self.settle_handover(event.decode(str))

    def _undeliverable(self, event: Event) -> None:
        fate = event.decode(Undeliverable)
        if fate.type == TAKEN_OVER:
            self.settle_handover(fate.id)
        self._router.routes.forget(fate.target)
        if fate.type[:1] != RESERVED:
            counts = self._router.undeliverable
            counts[fate.reason if fate.reason in counts or len(counts) < MAX_REASONS else "other"] += 1
        if not self._requests.settle(fate.id, RequestFailed(fate.target, fate.reason)) and fate.type[:1] != RESERVED:
            self._on_undeliverable(fate)

    def settle_handover(self, id: str) -> bool:
        """End a handover, as it was confirmed or is of no more use; return whether it was still under way."""
        under_way = self._handovers.pop(id, None)
        if under_way is not None:
            holding, done = under_way
            holding.mailbox.let_through()
            done.set()
        return under_way is not None
