"""One server of several: its bus, the visitors of all servers, and the messages from here of the last minute."""

from collections import defaultdict, deque
from contextlib import suppress
from time import monotonic
from typing import Final

import anyio
import msgspec

import eventbus
from gateway.protocol import Here, Message, Seen, State, Visit

BEAT: Final = 0.5
SILENCE: Final = 3.5  # seconds without news after which a server counts as silent
FORGOTTEN: Final = 15.0  # seconds without news after which a server is no longer shown
SLACK: Final = 2.0  # messages sent just before a page lost its server may not have reached it


class Server:
    """
    The state that the connections of one process share.

    Attributes:
        visits: the visitors connected here.
        sent: the last messages from here, each with its time and address, for visitors who missed them.
    """

    def __init__(self, bus: eventbus.Bus, url: str) -> None:
        self.bus = bus
        self.visits: set[Visit] = set()
        self.sent: deque[tuple[float, str, Message]] = deque(maxlen=1000)
        self._url = url
        self._heard: dict[str, tuple[float, Here]] = {}
        bus.on("gateway.here", data=Here)(self._hear)
        bus.on("$sys.node.left")(self._leave)
        bus.on("gateway.missed", data=Visit)(self._send_again)

    async def run(self) -> None:
        """Broadcast the visitors of this server twice a second, and forget servers that are silent for long."""
        now = monotonic()
        while True:
            here = Here(self._url, defaultdict(dict))
            for visit in self.visits:
                here.workspaces[visit.workspace][visit.name] = visit.rooms
            last, now = now, monotonic()
            self._heard[self.bus.node] = now, here
            if self.bus.state not in ("alone", "disconnected"):
                self._heard = {node: item for node, item in self._heard.items() if now - item[0] < FORGOTTEN}
                with suppress(eventbus.TransportUnavailable):
                    await self.bus.broadcast("gateway.here", here)
            else:  # no other server can be heard: each stays as it was last seen
                for node, (at, there) in self._heard.items():
                    self._heard[node] = (at + now - last if _silent(at) else now), there
            await anyio.sleep(BEAT)

    def state(self, workspace: str) -> State:
        """Return the servers and visitors of *workspace*; one who left a silent server is shown at the new one."""
        servers: dict[str, Seen] = {}
        shown: set[str] = set()
        for node, (at, here) in sorted(self._heard.items(), key=lambda item: _silent(item[1][0])):
            clients = here.workspaces.get(workspace, {})
            silent = _silent(at)
            servers[node] = Seen(here.url, {k: v for k, v in clients.items() if not silent or k not in shown}, silent)
            shown |= clients.keys()
        return State(self.bus.node, self.bus.state, dict(sorted(servers.items())), self.bus.stats())

    def _hear(self, event: eventbus.Event) -> None:
        self._heard[event.source[1:]] = monotonic(), event.data

    def _leave(self, event: eventbus.Event) -> None:
        if not event.data["died"]:  # a server that died is shown as silent first
            self._heard.pop(event.data["node"], None)

    async def _send_again(self, event: eventbus.Event) -> None:
        visit: Visit = event.data
        addresses = {visit.client, *visit.topics}
        since = monotonic() - visit.away - SLACK
        for at, address, message in list(self.sent):
            if at >= since and address in addresses:
                with suppress(eventbus.EventBusError):
                    await self.bus.send(visit.client, "gateway.message", msgspec.structs.replace(message, again=True))


def _silent(heard: float) -> bool:
    return monotonic() - heard > SILENCE
