"""A bus that closes while handlers are at work: each event was handled to its end, or its sender is told."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventbus
from eventbus import Event, RequestFailed
from tests.support import DEADLINE, Hooked, buses, fence, tasks, until

ASKING = True
SENT = 5


class Left(Exception):
    """Ends the body of a bus."""


@pytest.mark.parametrize("ending", ["close_timeout", "an error", "the handle stays open"])
@pytest.mark.parametrize("receiver", ["client", "node"])
@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
async def test_g5_an_event_in_hand_is_handled_or_reported(uri: str, ending: str, receiver: str, near: bool) -> None:
    """The handler is cancelled in the midst of an event: that one, and those behind, are reported once each."""
    handled: list[str] = []
    begun = anyio.Event()

    async def work(event: Event) -> None:
        if event.type != "n.0":
            begun.set()
            await anyio.sleep_forever()
        handled.append(event.type)

    async with buses(uri, 1) as (a,):
        lost = Hooked()
        a.on_undeliverable(lost)
        with suppress(Left):
            async with eventbus.connect(uri, namespace=a.namespace, node="closing", close_timeout=0.1) as b:
                b.on_undeliverable(lost)
                target = "bob" if receiver == "client" else b.address
                client = b.client("bob", handler=work) if receiver == "client" else None
                if client is not None:
                    await client.open()
                else:
                    b.on("n.*")(work)
                    await b.ready()
                for number in range(SENT):
                    await (b if near else a).send(target, f"n.{number}")
                await begun.wait()
                if not near:
                    await fence([a], [b])
                if ending == "an error":
                    raise Left
                if client is not None and ending == "close_timeout":
                    await client.aclose()
        await until(lambda: len(lost) == SENT - 1, f"each is told: {lost}")
        assert handled == ["n.0"]
        assert sorted(fate.type for fate in lost) == [f"n.{number}" for number in range(1, SENT)]
        assert next(fate.reason for fate in lost if fate.type == "n.1") == "bus closed"


async def test_g5_a_handler_that_finishes_as_it_is_cancelled_has_handled_its_event(uri: str) -> None:
    """A handler may shield what it must finish: then its event is not reported."""
    handled: list[str] = []
    begun = anyio.Event()

    async def work(event: Event) -> None:
        begun.set()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.15)
            handled.append(event.type)

    async with buses(uri, 1) as (a,):
        lost = Hooked()
        a.on_undeliverable(lost)
        async with eventbus.connect(uri, namespace=a.namespace, node="closing", close_timeout=0.01) as b:
            await b.client("bob", handler=work).open()
            await a.send("bob", "n")
            await begun.wait()
        assert handled == ["n"]
        assert not lost


async def test_the_asker_of_a_request_in_hand_is_told_once(uri: str) -> None:
    """Its request fails; the hook hears nothing."""
    begun = anyio.Event()

    async def work(_event: Event) -> None:
        begun.set()
        await anyio.sleep_forever()

    async with buses(uri, 1) as (a,), tasks() as group:
        lost = Hooked()
        a.on_undeliverable(lost)
        failed = anyio.Event()

        async def ask() -> None:
            with pytest.raises(RequestFailed):
                await a.request("bob", "n", timeout=DEADLINE)
            failed.set()

        async with eventbus.connect(uri, namespace=a.namespace, node="closing", close_timeout=0.1) as b:
            await b.client("bob", handler=work).open()
            group.start_soon(ask)
            await begun.wait()
        await failed.wait()
        assert not lost


@given(
    pauses=st.lists(st.integers(0, 4), min_size=1, max_size=8),
    closing=st.integers(0, 20),
    close_timeout=st.sampled_from([0.0, 0.001, 0.005]),
)
def test_g5_whenever_the_bus_closes(pauses: list[int], closing: int, close_timeout: float) -> None:
    """However far its handler got, each event of another node is handled or reported, and never both."""

    async def close() -> None:
        handled: list[int] = []

        async def work(event: Event) -> None:
            for _ in range(event.data[1]):
                await anyio.sleep(0.001)
            handled.append(event.data[0])

        async with buses("memory://", 1) as (a,):
            lost = Hooked()
            a.on_undeliverable(lost)
            async with eventbus.connect(
                "memory://", namespace=a.namespace, node="closing", close_timeout=close_timeout
            ) as b:
                await b.client("bob", handler=work).open()
                for number, pause in enumerate(pauses):
                    await a.send("bob", f"n.{number}", (number, pause))
                await anyio.sleep(closing / 1000)
            every = list(range(len(pauses)))

            def told() -> list[int]:
                return [int(fate.type.removeprefix("n.")) for fate in lost]

            await until(lambda: len(handled) + len(lost) >= len(every), "each has a fate")
            assert sorted(handled + told()) == every

    anyio.run(close)
