"""The batcher: many callers share one bulk call."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from eventbus import BusClosed, ClientNotFound, EventBusError, TransportUnavailable
from eventbus_core.concurrency.batcher import Batcher
from eventbus_core.concurrency.service_group import ServiceGroup
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

    services = ServiceGroup()
    batcher: Batcher[int, int] = Batcher(services, refuse)
    async with tasks() as group:
        for number in range(20):
            group.start_soon(ask, batcher, number)
        await anyio.lowlevel.checkpoint()
        group.start_soon(services.run_in, group)
        await until(lambda: len(caught) == 20)
    assert len(set(map(id, caught))) == 20
    assert {str(error) for error in caught} == {"the broker is down"}
    assert all(_depth(error) <= 3 for error in caught)


async def test_a_question_after_the_services_have_ended_is_refused_and_so_is_one_that_waits() -> None:
    async def call(questions: Sequence[int]) -> Sequence[int]:
        return questions

    services = ServiceGroup()
    batcher: Batcher[int, int] = Batcher(services, call)
    refused: list[int] = []

    async def ask(number: int) -> None:
        try:
            await batcher.ask(number)
        except BusClosed:
            refused.append(number)

    async with tasks() as group:
        group.start_soon(ask, 1)
        await until(lambda: batcher.waiting)
        services.end()
        await until(lambda: refused == [1])
        await ask(2)
        assert refused == [1, 2]


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
