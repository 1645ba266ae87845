"""Whether what this node told all has been heard: the one thing of G8 that needs every node's word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio
import attrs

from eventbus_core.batcher import Batcher
from eventbus_core.event import Event
from eventbus_core.log import get_logger
from eventbus_core.names import is_other_node
from eventbus_core.refusals import OWN, Refusals
from eventbus_core.routing import Router

logger = get_logger("eventbus")

HEAR: Final = "$sys.hear"
HEARD: Final = "$sys.heard"
HEARING_TIMEOUT: Final = 1.0


@attrs.frozen
class Hear:
    """*node* asks in its hearing of this *number* whether we have handled what it told all before; and the answer."""

    number: int
    node: str


class Hearing:
    """
    Asks all nodes whether they have heard what was told them before.

    The question takes the way of everything that is told to all, which keeps its order: who answers it has
    handled what came before it. Many who ask at once cost one question.
    """

    def __init__(self, router: Router, refusals: Refusals) -> None:
        self._router = router
        self._refusals = refusals
        self._number = 0
        self._deaf: set[str] = set()
        self._all_heard = anyio.Event()
        self._hearings: Batcher[str, None] = Batcher(self._hear)
        self.run = self._hearings.run

    async def heard(self, silent: str) -> None:
        """
        Return once every other live node has handled what this one told all so far.

        The node *silent*, which is known to hang, is not waited for; any other for ``HEARING_TIMEOUT``.

        Raises:
            TransportUnavailable: nobody can say which nodes live.
        """
        await self._hearings.ask(silent)

    def answer(self, event: Event) -> None:
        """Tell the node that asks by *event* that we have handled what it told all before."""
        asked = event.decode(Hear)
        if is_other_node(asked.node, self._router.node):
            self._router.tell_node(asked.node, HEARD, Hear(asked.number, self._router.node))
        else:
            self._refusals.add(OWN, f"{event!r} names no other node")

    def take(self, event: Event) -> None:
        """Take the answer of another node."""
        answer = event.decode(Hear)
        if answer.number == self._number:
            self._deaf.discard(answer.node)
            if not self._deaf:
                self._all_heard.set()

    async def _hear(self, silent: Sequence[str]) -> Sequence[None]:
        nodes = await self._router.directory.nodes()
        self._deaf = {node.id for node in nodes}.difference(silent, (self._router.node,))
        if self._deaf:
            self._all_heard = anyio.Event()
            self._number += 1
            self._router.tell_all(HEAR, Hear(self._number, self._router.node))
            with anyio.move_on_after(HEARING_TIMEOUT):
                await self._all_heard.wait()
        if self._deaf:
            logger.info("node %s: no word of %s that they know who moved", self._router.node, sorted(self._deaf))
        return [None] * len(silent)
