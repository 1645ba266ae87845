"""A bus belongs to one event loop and one process: calls from elsewhere raise at once, and do it no harm."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import to_thread

import eventbus
from eventbus import Bus, Client, ConfigurationError
from tests.support import DEADLINE, Inbox, buses, fresh_namespace, take


async def _names(bus: Bus) -> None:
    names: AsyncIterator[str] = bus.clients()
    async for _ in names:
        pass


WAITING: dict[str, Callable[[Bus, Client], Awaitable[object]]] = {
    "send to a client elsewhere": lambda bus, _client: bus.send("nowhere", "n"),
    "request": lambda bus, _client: bus.request("acme/a", "n"),
    "wait_for": lambda bus, _client: bus.wait_for("n"),
    "ready": lambda bus, _client: bus.ready(),
    "flush": lambda bus, _client: bus.flush(),
    "locate": lambda bus, _client: bus.locate("acme/a"),
    "explain": lambda bus, _client: bus.explain("acme/a"),
    "nodes": lambda bus, _client: bus.nodes(),
    "clients": lambda bus, _client: _names(bus),
    "node_stats": lambda bus, _client: bus.node_stats("n1"),
    "claim": lambda bus, _client: bus.client("acme/b").__aenter__(),
    "open": lambda bus, _client: bus.__aenter__(),
    "close": lambda bus, _client: bus.__aexit__(None, None, None),
    "receive": lambda _bus, client: client.receive(),
    "subscribe": lambda _bus, client: client.subscribe("n"),
    "unsubscribe": lambda _bus, client: client.unsubscribe("n"),
    "release": lambda _bus, client: client.aclose(),
}
AT_ONCE: dict[str, Callable[[Bus, Client], Awaitable[object]]] = {
    "publish": lambda bus, _client: bus.publish("n"),
    "broadcast": lambda bus, _client: bus.broadcast("n"),
    "emit": lambda bus, _client: bus.emit("n"),
    "publish as a client": lambda _bus, client: client.publish("n"),
}


async def _raises(call: Callable[[], Awaitable[object]]) -> None:
    with anyio.fail_after(DEADLINE), pytest.raises(ConfigurationError, match="belongs to the event loop"):
        await call()


@pytest.mark.parametrize("call", [*WAITING, *AT_ONCE])
async def test_calls_from_another_thread_raise_and_the_bus_goes_on(
    uri: str, call: str, anyio_backend_name: str
) -> None:
    async with buses(uri, 2) as (a, b), a.client("acme/a") as client:
        function = {**WAITING, **AT_ONCE}[call]

        def elsewhere() -> None:
            anyio.run(_raises, lambda: function(a, client), backend=anyio_backend_name)

        await to_thread.run_sync(elsewhere)
        assert a.state == "open"
        await b.send("acme/a", "n", 1)
        assert [event.data for event in await take(client, 1)] == [1]
        await a.send("@n1", "n")
        await a.flush()


async def test_an_event_that_waits_is_not_received_in_another_thread(uri: str, anyio_backend_name: str) -> None:
    async with buses(uri, 1) as (bus,), bus.client("acme/a") as client:
        await bus.send("acme/a", "n", 1)
        await to_thread.run_sync(lambda: anyio.run(_raises, client.receive, backend=anyio_backend_name))
        assert [event.data for event in await take(client, 1)] == [1]


async def test_no_event_of_a_queue_is_received_in_another_thread(uri: str, anyio_backend_name: str) -> None:
    async with buses(uri, 1) as (bus,), bus.queue("jobs").consume() as consumer:
        await bus.queue("jobs").send("n", 1)
        await to_thread.run_sync(lambda: anyio.run(_raises, consumer.receive, backend=anyio_backend_name))
        with anyio.fail_after(DEADLINE):
            assert (await consumer.receive()).data == 1


async def test_a_consumer_that_is_closed_from_another_thread_still_takes_events(
    uri: str, anyio_backend_name: str
) -> None:
    async with buses(uri, 1) as (bus,), bus.queue("jobs").consume(inbox := Inbox()) as consumer:
        await to_thread.run_sync(lambda: anyio.run(_raises, consumer.aclose, backend=anyio_backend_name))
        await bus.queue("jobs").send("n", 1)
        await inbox.got(1)


async def test_handlers_are_added_and_removed_only_in_the_loop_of_the_bus(uri: str) -> None:
    async with buses(uri, 1) as (bus,):

        def elsewhere() -> None:
            with pytest.raises(ConfigurationError):
                bus.on("n")(print)
            with pytest.raises(ConfigurationError):
                bus.once("n")(print)
            with pytest.raises(ConfigurationError):
                bus.off(print)

        await to_thread.run_sync(elsewhere)
        assert len(bus._node.handlers) == 0


def test_calls_in_another_loop_of_the_same_thread_raise() -> None:
    """Such as in a test that uses a bus which a fixture opened in a loop of its own."""

    async def own(ready: asyncio.Event, done: asyncio.Event) -> None:
        async with bus, client:
            ready.set()
            await done.wait()

    bus = eventbus.connect("memory://", namespace=fresh_namespace())
    client = bus.client("acme/a")
    with asyncio.Runner() as first, asyncio.Runner() as second:
        ready, done = asyncio.Event(), asyncio.Event()
        owner = first.get_loop().create_task(own(ready, done))
        first.run(ready.wait())
        for call in WAITING.values():
            second.run(_raises(lambda call=call: call(bus, client)))  # type: ignore[misc]
        done.set()
        first.run(asyncio.wait_for(owner, DEADLINE))
    assert bus.state == "closed"


FORKING = """
import os, sys
import anyio, eventbus

bus = eventbus.connect(sys.argv[1], namespace=sys.argv[2], **eval(sys.argv[3]))
got = []

@bus.on("n", data=int)
def handle(event):
    got.append(event.data)

@bus.once("n")
def handle_once(event):
    got.append("once")

@bus.on_undeliverable
def lost(fate):
    got.append(fate.reason)

taken_off = bus.on("n", lambda event: got.append("taken off"))
early = bus.client("acme/early")

async def live():
    try:
        async with bus:
            try:
                await early.__aenter__()
            except eventbus.ConfigurationError:
                got.append("early")
            taken_off.off()
            await bus.publish("n", 1)
            await bus.publish("n", 2)
            await bus.send(bus.address, "handled.nowhere")
            with anyio.fail_after(60):
                while len(got) < 5:
                    await anyio.sleep(0.001)
            print(bus.node, sorted(map(str, got)), bus.address == "@" + bus.node)
    except eventbus.ConfigurationError as error:
        print(error)

for _ in range(2):
    child = os.fork()
    if not child:
        anyio.run(live)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


def _forked(uri: str, **options: Any) -> list[str]:
    command = [sys.executable, "-c", FORKING, uri, fresh_namespace(), repr(options)]
    return subprocess.run(command, timeout=2 * DEADLINE, capture_output=True, text=True, check=True).stdout.splitlines()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
@pytest.mark.parametrize("options", [{}, {"wait_for_broker": False}], ids=["there", "deferred"])
def test_a_bus_made_before_a_fork_is_another_node_in_each_process(options: dict[str, Any]) -> None:
    """With its own id, and the handlers and hooks that were registered before."""
    lines = _forked("memory://", **options)
    nodes = {line.split(" ", 1)[0] for line in lines}
    assert len(nodes) == 2
    assert {line.split(" ", 1)[1] for line in lines} == {"['1', '2', 'early', 'no handler', 'once'] True"}


@needs_fork
def test_a_bus_whose_id_was_given_before_a_fork_says_what_to_do() -> None:
    lines = _forked("memory://", node="given")
    assert len(lines) == 2
    assert all("'given'" in line and "leave out node=" in line for line in lines)


@needs_fork
def test_an_open_bus_raises_in_a_forked_process() -> None:
    program = """
import os, sys
import anyio, eventbus

async def live():
    async with eventbus.connect() as bus, bus.client("a") as client:
        child = os.fork()
        if not child:
            send, publish = lambda: bus.send("a", "n"), lambda: bus.publish("n")
            for call in (send, publish, bus.portal().nodes, bus.nodes, client.receive):
                try:
                    await call()
                except eventbus.ConfigurationError:
                    print("raised", flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        await bus.send("a", "n")
        print((await client.receive()).type)

anyio.run(live)
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, timeout=DEADLINE, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["raised"] * 5 + ["n"]


@needs_fork
def test_an_event_that_a_cancelled_call_left_is_not_received_in_a_forked_process() -> None:
    """The parent receives it."""
    program = """
import os
import anyio, eventbus

async def live():
    async with eventbus.connect() as bus, bus.portal().client("a") as client:
        jobs = bus.portal().queue("jobs")
        async with jobs.consume(concurrency=2) as consumer:
            await jobs.send("job")
            await bus.send("a", "n")
            for receiver in (consumer, client):
                await receiver._keep(await receiver.receive())
            child = os.fork()
            for receiver in (consumer, client):
                try:
                    told = (await receiver.receive()).type
                except eventbus.ConfigurationError:
                    told = "raised"
                os.write(1, f"{told}\\n".encode())  # one write: the other process uses the same pipe
            if not child:
                os._exit(0)
            os.waitpid(child, 0)

anyio.run(live)
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, timeout=DEADLINE, capture_output=True, text=True, check=True)
    assert sorted(ended.stdout.split()) == ["job", "n", "raised", "raised"]
