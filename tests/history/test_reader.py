"""Reading a stream while others change it."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from eventbus_core.backend import NewEntry, Page, Retention
from eventbus_core.concurrency.service_group import ServiceGroup
from eventbus_core.history.history_reader import HistoryReader
from eventbus_core.model.reports import GapReason
from eventbus_core.model.tokens import Mark, Token
from eventbus_memory.history import MemoryHistory
from eventbus_memory.hub import Hub

RETENTION = Retention(events=10)


class BeginsAfterARead(MemoryHistory):
    """Another node appends the first events of the stream right after it was found to be gone."""

    async def read(self, starts: Sequence[tuple[str, int]]) -> Sequence[Page | None]:
        pages = await super().read(starts)
        if starts == [("s", 1)] and pages == [None]:
            await self.append([NewEntry("s", 7, 3, b"three events", RETENTION)])
        return pages


async def test_g13_a_stream_that_begins_while_it_is_read_is_read_from_its_first_event() -> None:
    """As after a restart of a broker that lost everything: the gap is told, then all that was published since."""
    hub = Hub()
    services = ServiceGroup()
    reader = HistoryReader(BeginsAfterARead(lambda: hub), services)
    async with anyio.create_task_group() as group:
        group.start_soon(services.run_in, group)
        reading = await reader.since("s", RETENTION, Token("s", "former", Mark(5, 1)))
        assert reading.verdict.reason == GapReason.NEW_STREAM
        assert [(share.first, share.last) for share in reading.shares] == [(1, 3)]
        assert reading.end.offset == 3
        group.cancel_scope.cancel()
