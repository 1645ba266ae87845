"""The batcher: many callers share one bulk call."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from eventbus import ClientNotFound, EventBusError, TransportUnavailable
from eventbus_core.concurrency.batcher import Batcher
from eventbus_core.errors import fresh_copy
from tests.support import tasks, until

pytestmark = pytest.mark.anyio


async def test_each_caller_of_a_failed_call_gets_an_exception_of_its_own() -> None:
    """One object that all of them raise would carry the traceback of every one: megabytes in an outage."""
    caught: list[EventBusError] = []

    async def refuse(_questions: Sequence[int]) -> Sequence[int]:
        raise TransportUnavailable("the broker is down")

    async def ask(batcher: Batcher[int, int], number: int) -> None:
        try:
            await batcher.ask(number)
        except EventBusError as error:
            caught.append(error)

    batcher: Batcher[int, int] = Batcher(refuse)
    async with tasks() as group:
        for number in range(20):
            group.start_soon(ask, batcher, number)
        await anyio.lowlevel.checkpoint()
        group.start_soon(batcher.run)
        await until(lambda: len(caught) == 20)
    assert len(set(map(id, caught))) == 20
    assert {str(error) for error in caught} == {"the broker is down"}
    assert all(_depth(error) <= 3 for error in caught)


def _depth(error: BaseException) -> int:
    frames, traceback = 0, error.__traceback__
    while traceback is not None:
        frames, traceback = frames + 1, traceback.tb_next
    return frames


def test_a_fresh_copy_has_the_message_and_the_attributes_and_no_traceback() -> None:
    with pytest.raises(ClientNotFound) as caught:
        raise ClientNotFound("acme/alice")
    copy = fresh_copy(caught.value)
    assert isinstance(copy, ClientNotFound)
    assert (str(copy), copy.address, copy.__traceback__) == (str(caught.value), "acme/alice", None)
