"""A backend that crashes ends the bus, and its exception comes out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import eventbus
from eventbus import register
from eventbus_core.backend import Frame, Interrupted
from eventbus_core.node import lifecycle
from eventbus_memory import MemoryTransport
from eventbus_memory.directory import MemoryDirectory
from tests.support import DEADLINE, Inbox, buses, fresh_namespace, until


class _Crashing(MemoryTransport):
    """Raises what it is told to, where it is told to."""

    where = ""
    error: BaseException = RuntimeError("crash")
    ready: anyio.Event

    async def receive(self) -> AsyncIterator[Frame | Interrupted]:
        if self.where == "at once":
            raise self.error
        items: Any = super().receive()
        async with aclosing(items):
            async for item in items:
                yield item
                if self.where == "receive":
                    raise self.error

    async def publish(self, frames: Any) -> Any:
        if self.where == "publish":
            raise self.error
        return await super().publish(frames)

    async def join(self, partitions: Any) -> None:
        if self.where == "join lane" and any(partition.startswith("l:") for partition in partitions):
            raise self.error
        await super().join(partitions)


register("crashing", _Crashing)


@pytest.mark.parametrize("where", ["at once", "receive", "publish", "join lane"])
@pytest.mark.parametrize("body", ["sleeping", "busy", "raising"])
async def test_a_task_of_the_bus_that_crashes_ends_the_body(
    where: str, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in a backend ends the body of ``async with``, and comes out of it as that very exception."""
    monkeypatch.setattr(_Crashing, "where", where)
    monkeypatch.setattr(_Crashing, "error", error := RuntimeError("crash"))
    namespace = fresh_namespace()
    async with buses("memory://tests", 1, namespace=namespace) as (a,):

        async def live() -> None:
            async with eventbus.connect("crashing://tests", namespace=namespace, node="other") as bus:
                bus.on("n")(Inbox())
                await bus.broadcast("n")
                await a.broadcast("n")
                if body == "sleeping":
                    await anyio.sleep_forever()
                elif body == "busy":
                    while True:
                        await bus.broadcast("n")
                        await checkpoint()
                else:
                    await until(lambda: False)

        with pytest.raises(RuntimeError) as caught, anyio.fail_after(DEADLINE):
            await live()
        assert caught.value is error
        assert [node.id for node in await a.nodes()] == ["n0"]


async def test_a_crash_while_opening_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a task of the bus crashes before ``async with`` has been entered, entering raises that very exception."""
    monkeypatch.setattr(_Crashing, "where", "join lane")
    monkeypatch.setattr(_Crashing, "error", error := RuntimeError("crash"))
    namespace = fresh_namespace()
    bus = eventbus.connect("crashing://tests", namespace=namespace, node="other")
    bus.on("n")(Inbox())
    with pytest.raises(RuntimeError) as caught:
        await bus.__aenter__()
    assert caught.value is error
    async with buses("memory://tests", 1, namespace=namespace) as (a,):
        assert [node.id for node in await a.nodes()] == ["n0"]


async def test_a_crash_wins_over_the_end_of_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash that comes while the bus closes is raised too: nothing is swallowed."""
    namespace = fresh_namespace()
    monkeypatch.setattr(_Crashing, "error", error := RuntimeError("crash"))

    async def live() -> None:
        async with eventbus.connect("crashing://tests", namespace=namespace, node="other") as bus:
            monkeypatch.setattr(_Crashing, "where", "publish")
            await bus.broadcast("n")

    with pytest.raises(RuntimeError) as caught:
        await live()
    assert caught.value is error


@pytest.mark.parametrize("reason", ["you may not", "no answer within 0.1 s"])
async def test_a_directory_that_does_not_let_a_node_go_ends_the_bus_all_the_same(
    reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lease will end; the log says so once, and no task of the bus goes on."""

    async def refuse(directory: MemoryDirectory) -> None:
        if reason != "you may not":
            await anyio.sleep_forever()
        raise eventbus.EventBusError("you may not")

    monkeypatch.setattr(MemoryDirectory, "leave", refuse)
    monkeypatch.setattr(lifecycle, "LEAVE_TIMEOUT", 0.1)
    with caplog.at_level(logging.WARNING, "eventbus"), anyio.fail_after(DEADLINE):
        async with eventbus.connect("memory://", namespace=fresh_namespace()):
            pass
    told = [found.getMessage() for found in caplog.records if "could not leave" in found.getMessage()]
    assert [text.rpartition(": ")[2] for text in told] == [reason]
