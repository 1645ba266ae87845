"""One server of several: its bus, who is where, and what its visitors sent in the last minute."""

from collections import defaultdict, deque
from contextlib import suppress
from time import monotonic
from typing import Final

import anyio
import msgspec

import eventbus
from gateway.protocol import Here, Message, Seen, State, Visit

BEAT: Final = 0.5
SILENCE: Final = 3.5
SLACK: Final = 2.0  # what was sent shortly before a page heard the last of its server may not have reached it


class Server:
    """
    What the connections of one process share.

    Attributes:
        visits: those who are connected here.
        sent: the last messages from here, each with its time and address, for those who missed them.
    """

    def __init__(self, bus: eventbus.Bus, url: str) -> None:
        self.bus = bus
        self.visits: set[Visit] = set()
        self.sent: deque[tuple[float, str, Message]] = deque(maxlen=1000)
        self._url = url
        self._heard: dict[str, tuple[float, Here]] = {}
        bus.on("gateway.here", data=Here)(self._hear)
        bus.on("gateway.missed", data=Visit)(self._send_again)

    async def run(self) -> None:
        """Tell all servers again and again who is here; of a server that is silent nobody is shown."""
        while True:
            here = Here(self._url, defaultdict(dict))
            for visit in self.visits:
                here.workspaces[visit.workspace][visit.name] = visit.rooms
            with suppress(eventbus.TransportUnavailable):
                await self.bus.broadcast("gateway.here", here)
            self._heard = {node: item for node, item in self._heard.items() if item[0] > monotonic() - SILENCE}
            await anyio.sleep(BEAT)

    def state(self, workspace: str) -> State:
        """Return how things are in *workspace*."""
        heard = sorted(self._heard.items())
        servers = {node: Seen(here.url, here.workspaces.get(workspace, {})) for node, (_, here) in heard}
        return State(self.bus.node, self.bus.state, servers, self.bus.stats())

    def _hear(self, event: eventbus.Event) -> None:
        self._heard[event.source[1:]] = monotonic(), event.data

    async def _send_again(self, event: eventbus.Event) -> None:
        visit: Visit = event.data
        addresses = {visit.client, *visit.topics}
        since = monotonic() - visit.away - SLACK
        for at, address, message in list(self.sent):
            if at >= since and address in addresses:
                with suppress(eventbus.EventBusError):
                    await self.bus.send(visit.client, "gateway.message", msgspec.structs.replace(message, again=True))
