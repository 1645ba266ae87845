"""Adoption: clients that linger on a node that leaves go to other nodes, which keep their events from then on."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from random import shuffle
from time import monotonic
from typing import Annotated, Final

import anyio
import attrs
import msgspec

from eventbus_core.backend import Directory
from eventbus_core.concurrency.notifier import Notifier
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.errors import EventBusError
from eventbus_core.membership.channel import ControlChannel
from eventbus_core.membership.ownership import Ownership
from eventbus_core.model.event import Event
from eventbus_core.model.names import is_other_node
from eventbus_core.node.client_lifecycle import ClientLifecycle
from eventbus_core.observability.log import get_logger

logger = get_logger("eventbus")

ADOPT: Final = "$sys.adopt"
ADOPTED: Final = "$sys.adopted"
MAX_ADOPTED: Final = 10
"""Clients in one message, which fits into the smallest frame."""
ADOPTIONS_PER_SECOND: Final = 10_000
"""Messages from one node that leaves: enough for 100,000 lingering clients."""
MAX_SECONDS: Final = 3600.0
"""A client lingers on the node that adopted it for this long at most."""
ADOPTION_TIMEOUT: Final = 0.4


@attrs.frozen
class Adopt:
    """Asks a node to keep the events for *clients*, each for so many seconds; *node* has released them, and leaves."""

    node: str
    clients: dict[str, Annotated[float, msgspec.Meta(ge=0)]]


class Adoption:
    """Hands lingering clients over to other nodes, and adopts theirs, unless another node claims the client first."""

    def __init__(
        self,
        channel: ControlChannel,
        directory: Directory,
        ownership: Ownership,
        client_lifecycle: ClientLifecycle,
        services: ServiceGroup,
    ) -> None:
        self._channel = channel
        self._directory = directory
        self._ownership = ownership
        self._client_lifecycle = client_lifecycle
        self._services = services
        self._asked: set[str] = set()
        self._answered = Notifier()
        channel.on_query(ADOPT, self._take_adopt, ADOPTIONS_PER_SECOND)
        channel.on(ADOPTED, self._take_adopted)

    async def hand_over(self) -> None:
        """
        Return once other nodes have adopted the clients that linger here, or after ``ADOPTION_TIMEOUT``.

        Events still come to the mailboxes here; they are forwarded when the clients end.
        """
        lingering = self._client_lifecycle.lingering(monotonic())
        if not lingering or not self._ownership.entered:
            return
        with anyio.move_on_after(ADOPTION_TIMEOUT):
            try:
                nodes = [node.id for node in await self._directory.nodes() if node.id != self._channel.node]
                if nodes:
                    shuffle(nodes)
                    try:
                        await self._ownership.offer(list(lingering))
                    finally:  # the directory may have released them although no answer came
                        self._ask(nodes, {held.name: seconds for held, seconds in lingering.items()})
            except EventBusError as error:
                text = "node %s: perhaps other nodes cannot adopt its %d lingering clients: %s"
                extra = {"node": self._channel.node, "clients": len(lingering), "error": str(error)}
                logger.warning(text, self._channel.node, len(lingering), error, extra=extra)
            while self._asked:
                await self._answered.wait()

    def _ask(self, nodes: list[str], clients: dict[str, float]) -> None:
        names = list(clients)
        for place in range(0, len(names), MAX_ADOPTED):
            node = nodes[place // MAX_ADOPTED % len(nodes)]
            part = {name: clients[name] for name in names[place : place + MAX_ADOPTED]}
            message = self._channel.message(ADOPT, node, Adopt(self._channel.node, part))
            self._asked.add(message.id)
            self._channel.forward(node, message)

    def _take_adopted(self, message: Event) -> None:
        self._asked.discard(message.decode(str))
        self._answered.notify()

    def _take_adopt(self, message: Event) -> None:
        adopt = message.decode(Adopt)
        if is_other_node(adopt.node, self._channel.node) and len(adopt.clients) <= MAX_ADOPTED:
            self._services.start(partial(self._adopt, adopt, message.id))
        else:
            self._channel.reject(message, "names no other node, or too many clients")

    async def _adopt(self, adopt: Adopt, id: str) -> None:
        for client, seconds in adopt.clients.items():
            with suppress(EventBusError):  # another node has the client, or this one may hold no more
                await self._client_lifecycle.adopt(client, min(seconds, MAX_SECONDS))
        self._channel.send(adopt.node, ADOPTED, id)
