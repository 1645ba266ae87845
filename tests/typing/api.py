"""What type checkers must accept of the public API; checked by mypy and pyright, never run."""

from collections.abc import AsyncIterator
from typing import assert_type

import attrs

import eventbus


@attrs.frozen
class Order:
    id: int


async def use() -> None:
    async with eventbus.connect("memory://", node="a", lanes=8) as bus:
        assert_type(bus, eventbus.Bus)

        @bus.on("order.*", data=Order)
        async def handle(event: eventbus.Event) -> None:
            assert_type(event.decode(Order), Order)

        @bus.once("order.created")
        def first(event: eventbus.Event) -> int:
            return len(event.type)

        assert_type(first(await bus.wait_for("order.>", match=lambda event: event.topic is not None)), int)
        bus.off(handle)

        @bus.on_undeliverable
        def report(fate: eventbus.Undeliverable) -> None:
            assert_type(fate.reason, str)

        @bus.on_error
        async def failed(event: eventbus.Event, error: Exception) -> None:
            assert_type(event.id, str)

        async with bus.client("acme/alice", takeover=False) as alice:
            assert_type(alice, eventbus.Client)
            await alice.subscribe("room.42")
            await alice.send("acme/bob", "chat.message", {"text": "hi"}, headers={"trace": "1"})
            assert_type(await alice.request("acme/bob", "ping", timeout=1.0), eventbus.Event)
            async for event in alice:
                assert_type(event, eventbus.Event)
                await alice.reply(event, None)

        assert_type(await bus.locate("acme/bob"), eventbus.Owner | None)
        assert_type(await bus.nodes(), list[eventbus.Node])
        assert_type(bus.clients(), AsyncIterator[str])
        assert_type(bus.stats(), eventbus.Stats)


def block() -> None:
    with eventbus.connect_blocking() as bus, bus.client("acme/carol") as carol:
        assert_type(carol.receive(timeout=1.0), eventbus.Event)
        for event in carol:
            assert_type(event, eventbus.Event)
