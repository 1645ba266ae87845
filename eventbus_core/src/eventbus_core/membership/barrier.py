"""A barrier over all nodes: returns once each has processed every broadcast that this node sent before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio
import attrs

from eventbus_core.backend import Directory
from eventbus_core.concurrency.batcher import Batcher
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.model.event import Event
from eventbus_core.model.names import is_other_node
from eventbus_core.observability.log import get_logger

logger = get_logger("eventbus")

REACH: Final = "$sys.hear"
REACHED: Final = "$sys.heard"
BARRIER_TIMEOUT: Final = 1.0


@attrs.frozen
class BarrierMessage:
    """
    A barrier request, or the answer to it.

    The request of *node* asks: "have you processed everything that I broadcast so far?"
    """

    number: int
    node: str


class Barrier:
    """
    Asks every live node to confirm that it has processed what this node broadcast before.

    The request travels as a broadcast, in order with the others: a node that answers it has processed them. Callers
    that wait at the same time share one request.
    """

    def __init__(self, channel: ControlChannel, directory: Directory, services: ServiceGroup) -> None:
        self._channel = channel
        self._directory = directory
        self._number = 0
        self._missing: set[str] = set()
        self._answered = Notifier()
        self._requests: Batcher[str, None] = Batcher(services, self._request)
        channel.on_query(REACH, self._answer)
        channel.on(REACHED, self._take_answer)

    async def passed(self, silent: str) -> None:
        """
        Return once every other live node has processed all that this one broadcast so far.

        Does not wait for the node *silent*, which is known to hang, and at most ``BARRIER_TIMEOUT`` for any other.

        Raises:
            TransportUnavailable: the directory cannot say which nodes are alive.
        """
        await self._requests.ask(silent)

    def _answer(self, event: Event) -> None:
        request = event.decode(BarrierMessage)
        if is_other_node(request.node, self._channel.node):
            self._channel.send(request.node, REACHED, BarrierMessage(request.number, self._channel.node))
        else:
            self._channel.reject(event, "names no other node")

    def _take_answer(self, event: Event) -> None:
        answer = event.decode(BarrierMessage)
        if answer.number == self._number:
            self._missing.discard(answer.node)
            self._answered.notify()

    async def _request(self, silent: Sequence[str]) -> Sequence[None]:
        nodes = await self._directory.nodes()
        self._missing = {node.id for node in nodes}.difference(silent, (self._channel.node,))
        if self._missing:
            self._number += 1
            self._channel.send_all(REACH, BarrierMessage(self._number, self._channel.node))
            with anyio.move_on_after(BARRIER_TIMEOUT):
                while self._missing:
                    await self._answered.wait()
        if self._missing:
            text = "node %s: no confirmation from %s that they learned of the client's new owner"
            node = self._channel.node
            logger.info(text, node, sorted(self._missing), extra={"node": node, "missing": sorted(self._missing)})
        return [None] * len(silent)
