"""Draining: before a node leaves, the owners of its clients are told to go, one after the other."""

from __future__ import annotations

from functools import partial
from random import random, shuffle
from time import monotonic
from typing import Annotated, Final

import anyio
import attrs
import msgspec

from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.errors import OptionError
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.held_client import HeldClient
from eventbus_core.model.event import Event
from eventbus_core.model.state import NodeState, Phase
from eventbus_core.node.client_lifecycle import ClientLifecycle
from eventbus_core.node.queue_consumers import QueueConsumers
from eventbus_core.observability.log import get_logger

logger = get_logger("eventbus")

DRAIN: Final = "$sys.drain"
DRAINS_PER_SECOND: Final = 10
"""Requests to drain from one node."""
MAX_OVER: Final = 3600.0
STEP: Final = 0.02
"""Clients that are due within so many seconds go at once."""


@attrs.frozen
class Drain:
    """Asks a node to drain within *over* seconds."""

    over: Annotated[float, msgspec.Meta(ge=0, le=MAX_OVER)]


def check_over(over: object) -> None:
    """
    Do nothing if a drain may take *over* seconds.

    Raises:
        OptionError: it may not.
    """
    if not (isinstance(over, int | float) and 0 <= over <= MAX_OVER):
        raise OptionError.bad_value("over", over, f"a number of seconds from 0 to {MAX_OVER:g}")


class Draining:
    """
    Gives up the clients of this node evenly over a time, in random order; their events wait for the next claims.
    Consumers of queues take no more events at once.

    Attributes:
        done: whether every client was given up, and claimed elsewhere, or ``close_timeout`` has passed since.
    """

    def __init__(
        self,
        channel: ControlChannel,
        state: NodeState,
        client_lifecycle: ClientLifecycle,
        consumers: QueueConsumers,
        services: ServiceGroup,
        close_timeout: float,
    ) -> None:
        self.done = False
        self._channel = channel
        self._state = state
        self._client_lifecycle = client_lifecycle
        self._consumers = consumers
        self._services = services
        self._close_timeout = close_timeout
        self._finished = Notifier()
        channel.on_query(DRAIN, self._take, DRAINS_PER_SECOND)

    def begin(self, over: float) -> None:
        """Drain within *over* seconds, in a task of its own; does nothing if that has begun, or the bus is closing."""
        if self._state.accepting and not self._state.draining:
            self._state.move(Phase.DRAINING)
            self._services.start(partial(self._run, over))

    async def finished(self) -> None:
        """Return once the node has drained."""
        while not self.done:
            await self._finished.wait()

    async def _run(self, over: float) -> None:
        self._services.start(self._consumers.drain)
        handles, begun = self._handles(), monotonic()
        text = "node %s: draining, %d clients move to other nodes within %g s"
        extra = {"node": self._channel.node, "clients": len(handles), "over": over}
        logger.info(text, self._channel.node, len(handles), over, extra=extra)
        shuffle(handles)
        told = begun - over
        share = over / max(1, len(handles))
        for place, held in enumerate(handles):
            due = begun + share * (place + random())
            at = max(due, told + share / 2)  # after a stall, not all that are late at once
            if (pause := at - monotonic()) > STEP:
                await anyio.sleep(pause)
            told = max(at, monotonic() - STEP)
            self._client_lifecycle.send_away(held)
        await self._client_lifecycle.all_claimed()
        for held in self._handles():  # their claims had begun before
            self._client_lifecycle.send_away(held)
        with anyio.move_on_after(self._close_timeout):
            await self._client_lifecycle.all_moved()
            await self._consumers.drain()
        self.done = True
        self._finished.notify()
        text = "node %s: drained, %d clients wait here for their next claim"
        waiting = self._client_lifecycle.lingering_count
        logger.info(text, self._channel.node, waiting, extra={"node": self._channel.node, "clients": waiting})

    def _handles(self) -> list[HeldClient]:
        """Return the clients that must go; those of queues finish their work, and need not be claimed elsewhere."""
        return [held for held in self._client_lifecycle.handles() if not self._consumers.stays(held.name)]

    def _take(self, request: Event) -> None:
        self.begin(request.decode(Drain).over)
        self._channel.answer(request, DRAIN, None)
