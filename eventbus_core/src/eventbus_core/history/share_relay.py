"""The relay: sends what was appended to a retained topic to the nodes that receive it."""

from __future__ import annotations

from msgspec import Raw

from eventbus_core.history.shares import Share, encode_share
from eventbus_core.model.event import Event
from eventbus_core.model.event_ids import EventIds
from eventbus_core.model.names import topic_address
from eventbus_core.model.topics import SHARES
from eventbus_core.routing.fanout import FanOut
from eventbus_core.session.wire import MAX_ENVELOPE


class ShareRelay:
    """
    Publishes each share as one event, by a topic of its own: so it goes the way of every other event.

    A share that is too large for a frame goes without its events: its receivers read the history.
    """

    def __init__(self, fanout: FanOut, ids: EventIds, address: str, max_frame_size: int) -> None:
        self._fanout = fanout
        self._ids = ids
        self._address = address
        self._limit = max_frame_size - 2 * MAX_ENVELOPE

    async def send(self, topic: str, share: Share) -> None:
        """Send *share* to all nodes, this one included, once there is room."""
        fits = len(share.body) <= self._limit
        raw = encode_share(share if fits else share._replace(body=b""))
        by = SHARES + topic
        event = Event(by, self._address, topic_address(by), self._ids.next(), Raw(raw))
        await self._fanout.relay(by, event, len(raw))
