"""The bus of a process: opened by its first use, from whatever event loop, and left at the end of the process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from anyio import to_thread

import eventbus
from eventbus import ConfigurationError, NodeAlreadyPresent, Portal, ProcessBus
from tests.support import DEADLINE, fresh_namespace, tasks, until, within_deadline

PROGRAM = """
import signal, sys, asyncio, eventbus

async def main(server):
    bus = eventbus.ProcessBus(sys.argv[1], node="worker", lease=600.0)
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    if server:
        signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(stopping.set))
    await bus.open()
    print("open", flush=True)
    while not stopping.is_set():  # Python may notice a signal only when the main thread wakes
        await asyncio.sleep(0.05)

server = sys.argv[2] == "server"
asyncio.run(main(server))
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.raise_signal(signal.SIGTERM)  # as uvicorn does, once it has stopped
"""


def test_event_loops_and_threads_share_the_bus_that_the_first_opens() -> None:
    entered: list[str] = []

    async def enter(portal: Portal) -> None:
        entered.append(portal.node)

    bus = ProcessBus("memory://tests", enter, namespace=fresh_namespace())
    try:
        with ThreadPoolExecutor(4) as pool:
            nodes = {portal.node for portal in pool.map(lambda _: anyio.run(bus.open), range(8))}
        assert nodes == {*entered}
        assert len(entered) == 1
        bus.close()
        bus.close()
        assert anyio.run(bus.open).node == entered[1] != entered[0]
    finally:
        bus.close()


@pytest.mark.parametrize(("uri", "named"), [("localhost:6379", "scheme://"), ("redsi://localhost", "redis://")])
def test_a_mistaken_uri_is_refused_before_the_first_use(uri: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        ProcessBus(uri)


def test_an_opening_that_fails_leaves_nothing_open_and_is_tried_again() -> None:
    portals: list[Portal] = []

    async def enter(portal: Portal) -> None:
        portals.append(portal)
        if len(portals) == 1:
            raise OSError("not yet")

    bus = ProcessBus("memory://tests", enter, namespace=fresh_namespace())
    with pytest.raises(OSError, match="not yet"):
        anyio.run(bus.open)
    assert portals[0].state == "closed"
    assert anyio.run(bus.open).state == "open"
    bus.close()
    assert portals[1].state == "closed"


def test_the_use_of_a_bus_that_has_ended_raises_why_and_the_next_opens_another() -> None:
    bus = ProcessBus("memory://tests", namespace=fresh_namespace())

    async def fail() -> None:
        raise NodeAlreadyPresent("n1")

    async def end(portal: Portal) -> None:
        async def start() -> None:
            portal._bus._node.services.start(fail)

        await portal._entry.run(start)
        await until(lambda: portal.state == "closed")

    first = anyio.run(bus.open)
    try:
        anyio.run(end, first)
        with pytest.raises(NodeAlreadyPresent):
            anyio.run(bus.open)
        assert anyio.run(bus.open).state == "open"
    finally:
        bus.close()


async def test_a_task_that_is_cancelled_does_not_wait_for_the_opening() -> None:
    entered, go_on = threading.Event(), threading.Event()

    async def enter(_: Portal) -> None:
        entered.set()
        await to_thread.run_sync(go_on.wait, DEADLINE)

    bus = ProcessBus("memory://tests", enter, namespace=fresh_namespace())
    try:
        async with tasks() as group:
            group.start_soon(bus.open)
            await until(entered.is_set)
            group.cancel_scope.cancel()
        assert bus._opened is None
        go_on.set()
        assert (await bus.open()).state == "open"
    finally:
        go_on.set()
        await to_thread.run_sync(bus.close)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_that_forks_gets_another_bus() -> None:
    bus = ProcessBus("memory://tests", namespace=fresh_namespace())
    parent = anyio.run(bus.open).node
    child = os.fork()
    if child == 0:
        try:
            another = anyio.run(bus.open).node
            bus.close()
            os._exit(0 if another != parent else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert anyio.run(bus.open).node == parent
    bus.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM on this system")
@pytest.mark.parametrize("kind", ["server", "program"])
async def test_sigterm_has_the_process_leave_the_bus(kind: str, redis_uri: str) -> None:
    """A server handles it, stops, and ends itself by the same signal; a program has no handler."""
    uri = f"{redis_uri}?namespace={fresh_namespace()}"
    async with eventbus.connect(uri, lease=600.0) as observer:
        async with await anyio.open_process([sys.executable, "-c", PROGRAM, uri, kind], stderr=None) as process:
            with within_deadline("the process opened its bus, and ended"):
                assert process.stdout is not None
                assert await process.stdout.receive() in (b"open", b"open\n")
                assert "worker" in [node.id for node in await observer.nodes()]
                process.send_signal(signal.SIGTERM)
                status = await process.wait()
        assert status == (0 if kind == "server" else 128 + signal.SIGTERM)
        assert [node.id for node in await observer.nodes()] == [observer.node]
