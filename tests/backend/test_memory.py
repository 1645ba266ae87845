"""The memory backend: its namespaces, and its one thread."""

from __future__ import annotations

import threading

import anyio

import eventbus
from eventbus import ConfigurationError
from tests.support import fresh_namespace


async def test_g11_memory_in_two_threads_is_refused() -> None:
    """Buses of one name in two threads would race: the second is told so, the first goes on."""
    namespace = fresh_namespace()
    errors: list[BaseException] = []

    async def other_thread() -> None:
        async with eventbus.connect("memory://threads", namespace=namespace):
            pass

    def run() -> None:
        try:
            anyio.run(other_thread)
        except BaseException as error:
            errors.append(error)

    async with eventbus.connect("memory://threads", namespace=namespace, node="n0") as bus:
        thread = threading.Thread(target=run)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        (error,) = errors
        assert isinstance(error, ConfigurationError)
        assert "another thread" in str(error)
        assert [node.id for node in await bus.nodes()] == ["n0"]
    errors.clear()
    thread = threading.Thread(target=run)  # the name is free now, for any thread
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    assert errors == []
    async with eventbus.connect("memory://threads", namespace=namespace):
        pass


async def test_memory_names_keep_apart() -> None:
    """``memory://a`` and ``memory://b`` are two worlds, whatever the namespace; so are no name and a name."""
    namespace = fresh_namespace()
    async with (
        eventbus.connect("memory://a", namespace=namespace, node="n0") as a,
        eventbus.connect("memory://b", namespace=namespace, node="n0") as b,
        eventbus.connect("memory://", namespace=namespace, node="n0") as c,
        eventbus.connect(namespace=namespace, node="n1") as d,
    ):
        assert [len(await bus.nodes()) for bus in (a, b, c, d)] == [1, 1, 2, 2]
