"""The bus for code without an event loop: what it does is what the asynchronous one does, in threads."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from queue import Queue
from typing import Any

import pytest

import eventbus
from eventbus import (
    BlockingBus,
    Bus,
    BusClosed,
    Client,
    ClientNotFound,
    ConfigurationError,
    Event,
    Portal,
    PortalClient,
    RequestFailed,
    RequestTimeout,
    connect,
    connect_blocking,
)
from eventbus_core.api.blocking import BlockingClient, BlockingHook
from eventbus_core.node.hooks import Hook
from tests.support import DEADLINE, fresh_namespace


@contextmanager
def blocking_buses(uri: str, count: int) -> Iterator[list[BlockingBus]]:
    """Open *count* buses in a namespace of their own."""
    namespace = fresh_namespace()
    with ExitStack() as stack:
        yield [stack.enter_context(connect_blocking(uri, namespace=namespace, node=f"n{n}")) for n in range(count)]


@contextmanager
def publishing(bus: BlockingBus, topic: str, data: object) -> Iterator[None]:
    """Publish again and again, for a task that will wait for it at some time."""
    enough = threading.Event()

    def publish() -> None:
        while not enough.wait(0.01):
            bus.publish(topic, data)

    thread = threading.Thread(target=publish)
    thread.start()
    yield
    enough.set()
    thread.join()


class AsyncCallable:
    async def __call__(self, event: Event) -> None: ...


async def async_function(event: Event) -> None: ...


REGISTRATIONS: dict[str, Callable[[BlockingBus, Any], object]] = {
    "on": lambda bus, function: bus.on("news", function),
    "a decorator": lambda bus, function: bus.once("news")(function),
    "client": lambda bus, function: bus.client("bob", handler=function),
    "consume": lambda bus, function: bus.queue("jobs").consume(function),
    "a hook": lambda bus, function: bus.on_error(function),
}


@pytest.mark.parametrize("register", REGISTRATIONS.values(), ids=REGISTRATIONS)
@pytest.mark.parametrize(
    "function", [async_function, partial(async_function), AsyncCallable(), 5], ids=["async", "partial", "object", "5"]
)
def test_what_no_thread_can_call_is_refused_when_it_is_registered(
    register: Callable[[BlockingBus, Any], object], function: object
) -> None:
    """The coroutine of an async function would never run, and its event count as handled."""
    with connect_blocking() as bus, pytest.raises(ConfigurationError, match=r"^a handler or hook .*must be a "):
        register(bus, function)


def test_events_reach_clients_handlers_and_subscribers_of_both_nodes(uri: str) -> None:
    """Each call waits until it is done, from whatever thread it comes."""
    got: Queue[Any] = Queue()
    with blocking_buses(uri, 2) as (a, b), b.client("bob") as bob:

        @b.on("news.*")
        def news(event: Event) -> None:
            got.put((threading.current_thread() is main, event.data))

        main = threading.current_thread()
        bob.subscribe("news.sport")
        threads = [threading.Thread(target=a.send, args=("bob", "note", number)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(bob.receive(DEADLINE).data for _ in range(5)) == list(range(5))
        a.publish("news.sport", "goal")
        assert bob.receive(DEADLINE).data == "goal"
        assert got.get(timeout=DEADLINE) == (False, "goal")
        bob.unsubscribe("news.sport")
        a.broadcast("news.all", "hear")
        assert got.get(timeout=DEADLINE) == (False, "hear")
        b.emit("news.own", "here")
        assert got.get(timeout=DEADLINE) == (False, "here")
        a.flush()
        assert (a.locate("bob") or a).node == "n1"
        assert b.explain("bob").local
        assert [node.id for node in a.nodes()] == ["n0", "n1"]
        assert a.clients(prefix="bo") == ["bob"]
        assert a.clients(prefix="al") == []
        assert a.node_stats("n1").clients == 1
        assert (a.state, a.address, a.node) == ("open", "@n0", "n0")
    assert a.state == "closed"


def test_requests_are_answered_from_threads_that_block(uri: str) -> None:
    """A handler may call the bus, since it runs in a thread of its own."""
    with blocking_buses(uri, 2) as (a, b):

        def answer(event: Event) -> None:
            b.reply(event, event.data + 1)

        with b.client("adder", handler=answer), a.client("asker") as asker:
            assert a.request("adder", "add", 1, timeout=DEADLINE).data == 2
            assert asker.request("adder", "add", 2, timeout=DEADLINE).data == 3
        with pytest.raises((ClientNotFound, RequestFailed)):
            a.request("adder", "add", 1)


def test_handlers_are_registered_for_once_and_taken_off(uri: str) -> None:
    """``off`` undoes every registration of a function, also where there are several."""
    got: Queue[Any] = Queue()
    with blocking_buses(uri, 2) as (a, b):

        def keep(event: Event) -> None:
            got.put(event.data)

        b.once("a.*")(keep)
        for number in range(2):
            a.publish("a.b", number)
        assert got.get(timeout=DEADLINE) == 0
        b.on("b.*")(keep)
        b.on("c.*")(keep)
        a.publish("b.b", 2)
        assert got.get(timeout=DEADLINE) == 2
        b.off(keep)
        with publishing(a, "c.c", 3):
            assert b.wait_for("c.*", timeout=DEADLINE).data == 3
        assert got.empty()


def test_hooks_are_called_in_threads(uri: str) -> None:
    """They may block, and call the bus."""
    told: Queue[Any] = Queue()
    with blocking_buses(uri, 2) as (a, b):

        @b.on_error
        def failed(event: Event, error: Exception) -> None:
            told.put((b.locate("bob"), str(error)))

        @a.on_undeliverable
        def lost(fate: eventbus.Undeliverable) -> None:
            told.put(fate.type)

        @b.on("bad")
        def fail(event: Event) -> None:
            raise ValueError("no")

        a.publish("bad")
        assert told.get(timeout=DEADLINE) == (None, "no")
        with b.client("bob") as bob:
            a.send("bob", "left", expires=DEADLINE)
            assert bob.epoch > 0
            a.flush()
        assert told.get(timeout=DEADLINE) == "left"


def test_a_lingering_client_gets_the_events_that_came_meanwhile(uri: str) -> None:
    with blocking_buses(uri, 2) as (a, b):
        with b.client("bob", linger=DEADLINE):
            pass
        a.send("bob", "note", 1)
        with a.client("bob") as bob:
            assert bob.receive(DEADLINE).data == 1


@pytest.mark.parametrize(
    "call",
    [lambda bus: bus.send("a", "b"), lambda bus: bus.locate("a"), lambda bus: bus.on("a")(print)],
    ids=["send", "locate", "on"],
)
def test_outside_of_with_calls_say_so(call: Callable[[BlockingBus], object]) -> None:
    bus = connect_blocking()
    with pytest.raises(BusClosed, match="with"):
        call(bus)
    with bus:
        pass
    with pytest.raises(BusClosed):
        call(bus)


def test_receive_ends_with_its_timeout(uri: str) -> None:
    with blocking_buses(uri, 1) as (a,), a.client("bob") as bob, pytest.raises(RequestTimeout, match="bob"):
        bob.receive(timeout=0.01)


@pytest.mark.parametrize(
    ("blocking", "other", "missing"),
    [
        (BlockingBus, Bus, {"ready", "aclose"}),
        (BlockingClient, Client, {"aclose"}),
        (Portal, Bus, {"open", "aclose", "portal", "off", "partition_of", "stats"}),
        (PortalClient, Client, set()),
    ],
    ids=["bus", "client", "portal", "client of a portal"],
)
def test_the_facades_have_the_same_members(blocking: type, other: type, missing: set[str]) -> None:
    """Methods of the same names, with the same parameters; registering a handler waits until it is ready."""
    names = {name for name in dir(other) if name[0] != "_" and callable(getattr(other, name))}
    for name in sorted(names - missing):
        wanted = inspect.signature(getattr(other, name)).parameters
        got = inspect.signature(getattr(blocking, name)).parameters
        assert list(got)[: len(wanted)] == list(wanted), name
    hooks = [name for name, value in vars(connect()).items() if isinstance(value, Hook)]
    assert all(isinstance(vars(connect_blocking())[name], BlockingHook) for name in hooks)


def test_closing_leaves_a_handler_that_hangs() -> None:
    """Leaving ``with`` takes ``close_timeout`` at most, whatever the handler waits for."""
    release, began = threading.Event(), threading.Event()

    def live() -> None:
        with connect_blocking(close_timeout=0.1) as bus:

            @bus.on("n")
            def hang(event: Event) -> None:
                began.set()
                release.wait()

            bus.publish("n")
            assert began.wait(DEADLINE)

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    release.set()


def test_handlers_that_block_do_not_delay_others() -> None:
    """Each has a thread of its own: more handlers than a usual pool has threads wait for another one."""
    done, asked = threading.Event(), Queue[Any]()
    with connect_blocking() as bus, ExitStack() as stack:

        def ask(event: Event) -> None:
            asked.put(event.data)
            done.wait(DEADLINE)

        for number in range(60):
            stack.enter_context(bus.client(f"asker-{number}", handler=ask))
            bus.send(f"asker-{number}", "n", number)
        assert {asked.get(timeout=DEADLINE) for _ in range(60)} == set(range(60))
        stack.enter_context(bus.client("quick", handler=lambda _event: done.set()))
        bus.send("quick", "n")
        assert done.wait(DEADLINE)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_exit_in_a_handler_comes_out_of_with(kind: type[BaseException]) -> None:
    """The bus is closed then, and others go on."""

    def live(bus: BlockingBus) -> None:
        with bus:

            @bus.on("n")
            def end(event: Event) -> None:
                raise kind

            bus.publish("n")
            end_by = time.monotonic() + DEADLINE
            while bus.state != "closed" and time.monotonic() < end_by:
                time.sleep(0.001)
            with pytest.raises(BusClosed):
                bus.publish("n")

    with blocking_buses("memory://", 1) as (other,):
        with pytest.raises(kind):
            live(connect_blocking())
        with other.client("bob") as bob:
            other.send("bob", "n")
            assert bob.receive(DEADLINE).type == "n"


@pytest.mark.parametrize(
    "program",
    [
        "bus = connect_blocking(); bus.__enter__(); bus.publish('n')",
        "bus = connect_blocking()\nwith bus: bus.client('a').__enter__()",
        "bus = connect_blocking(); bus.__enter__(); bus.on('n')(lambda _event: time.sleep(1000)); bus.publish('n')",
    ],
    ids=["bus", "client", "handler-hangs"],
)
def test_a_bus_that_is_never_closed_does_not_hold_up_the_exit(program: str) -> None:
    program = f"import time\nfrom eventbus import connect_blocking\n{program}\nprint('end')"
    ended = subprocess.run(
        [sys.executable, "-c", program], timeout=DEADLINE, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "end\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_cannot_use_the_bus_of_its_parent_and_opens_its_own() -> None:
    program = """
import os
from eventbus import ConfigurationError, connect_blocking

with connect_blocking() as bus:
    child = os.fork()
    if not child:
        try:
            bus.publish("n")
        except ConfigurationError as error:
            print(error, flush=True)
        with connect_blocking() as own:
            own.publish("n")
            print(own.state, flush=True)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
    bus.publish("n")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], timeout=DEADLINE, capture_output=True, text=True, check=True
    )
    raised, state, status = ended.stdout.splitlines()
    assert "another one after the fork" in raised
    assert (state, status) == ("open", "0")
