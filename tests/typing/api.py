"""What type checkers must accept of the public API; checked by mypy and pyright, never run."""

from collections.abc import AsyncIterator
from typing import Any, assert_type

import attrs

import eventbus


@attrs.frozen
class Order:
    id: int


async def use() -> None:
    eventbus.connect("memory://", node="a", lane=8)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    eventbus.connect("memory://", lease="10")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    options: eventbus.ConnectOptions = {"lease": 5.0, "retain": {"chat.>": eventbus.Retention(events=10)}}
    eventbus.connect_blocking(**options)
    async with eventbus.connect("memory://", node="a", lanes=8) as bus:
        assert_type(bus, eventbus.Bus)

        @bus.on("order.*", data=Order)
        async def handle(event: eventbus.Event) -> None:
            assert_type(event.decode(Order), Order)

        @bus.on("order.*", data=Order)
        async def typed(event: eventbus.Event[Order]) -> None:
            assert_type(event.data, Order)

        @bus.on("order.*", data=Order | None)
        def either(event: eventbus.Event) -> None:
            assert_type(event.data, Any)
            event.decode(Order | None)

        bus.on("order.*", typed, data=Order)
        bus.once("order.*", lambda event: print(event.data.id), data=Order)
        bus.on("order.*", either, data=Order | None)
        bus.on("order.*", typed, data=list[Order])  # type: ignore[arg-type] # pyright: ignore[reportCallIssue,reportArgumentType]
        bus.on("order.*", typed, data=int)  # type: ignore[arg-type] # pyright: ignore[reportCallIssue,reportArgumentType]

        @bus.once("order.created")
        def first(event: eventbus.Event) -> int:
            return len(event.type)

        assert_type(first(await bus.wait_for("order.>", match=lambda event: event.topic is not None)), int)
        bus.off(handle)
        assert_type(bus.on("order.*", handle), eventbus.Registration)
        async with bus.once("order.*", first, local=True) as registration:
            assert_type(registration.pattern, str)
        registration.off()

        @bus.on_undeliverable
        def report(fate: eventbus.Undeliverable) -> None:
            assert_type(fate.reason, str)

        @bus.on_error
        async def failed(event: eventbus.Event, error: Exception) -> None:
            assert_type(event.id, str)

        async with bus.client("acme/alice", takeover=False) as alice:
            assert_type(alice, eventbus.Client)
            await alice.subscribe("room.42")
            assert_type(await alice.send("acme/bob", "chat.message", {"text": "hi"}, headers={"trace": "1"}), str)
            assert_type(await alice.request("acme/bob", "ping", timeout=1.0), eventbus.Event)
            async for event in alice:
                assert_type(event, eventbus.Event)
                await alice.reply(event, None)

        await bus.publish(["room.1", "room.2"], {"text": "hi"}, expires=5.0)
        await bus.subscribe("acme/bob", "room.42")
        assert_type(eventbus.unquote(eventbus.quote("Alice B.")), str)
        assert_type(await bus.locate("acme/bob"), eventbus.Owner | None)
        assert_type(await bus.nodes(), list[eventbus.Node])
        assert_type(bus.clients(), AsyncIterator[str])
        assert_type(bus.stats(), eventbus.Stats)


async def open_freely() -> None:
    bus = await eventbus.connect().open()
    assert_type(bus, eventbus.Bus)
    client = await bus.client("acme/alice").open()
    assert_type(client, eventbus.Client)
    await client.aclose()
    await bus.aclose()


async def call_from_elsewhere(bus: eventbus.Bus) -> None:
    portal = bus.portal()
    assert_type(portal, eventbus.Portal)
    await portal.send("acme/bob", "chat.message", {"text": "hi"}, headers={"trace": "1"})
    assert_type(await portal.request("acme/bob", "ping", timeout=1.0), eventbus.Event)
    assert_type(await portal.nodes(), list[eventbus.Node])
    async with portal.client("acme/alice") as alice:
        assert_type(alice, eventbus.PortalClient)
        assert_type(await alice.receive(), eventbus.Event)
        assert_type(await alice.ended(), eventbus.EventBusError)
    async with portal.queue("jobs").consume() as jobs:
        assert_type(jobs, eventbus.PortalConsumer)
        assert_type(await jobs.receive(), eventbus.Event)
    async with bus.queue("jobs").consume() as consumer:
        assert_type(await consumer.receive(), eventbus.Event)
        async for event in consumer:
            assert_type(event, eventbus.Event)
    with eventbus.connect_blocking().queue("jobs").consume() as blocking:
        assert_type(blocking.receive(1.0), eventbus.Event)
    assert_type(await eventbus.ProcessBus("memory://", lease=5.0).open(), eventbus.Portal)
    assert_type(eventbus.connect_blocking().portal(), eventbus.Portal)
    buffers = eventbus.Buffers[bytes](100, expiry=60.0)
    assert_type(buffers.put("alice", b""), bool)
    assert_type(await buffers.get("alice"), bytes)


def block() -> None:
    assert_type(eventbus.connect_blocking().open(), eventbus.BlockingBus)
    with eventbus.connect_blocking() as bus, bus.client("acme/carol") as carol:
        assert_type(carol.receive(timeout=1.0), eventbus.Event)
        assert_type(bus.on("order.*", print), eventbus.BlockingRegistration)
        for event in carol:
            assert_type(event, eventbus.Event)
