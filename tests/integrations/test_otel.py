"""Traces: a span for each event sent and handled, tied together over nodes by W3C headers."""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import eventbus
from eventbus_core.integrations.otel import traced
from tests.support import until


class Spans:
    """The spans that were made."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    async def one(self, name: str) -> ReadableSpan:
        """The only span of that name, once it has ended."""
        await until(lambda: bool(self.named(name)), f"there is a span {name!r}")
        (found,) = self.named(name)
        return found


@pytest.fixture
def spans() -> Spans:
    return Spans()


def tied(parent: ReadableSpan, child: ReadableSpan) -> bool:
    return (
        child.parent is not None
        and (child.parent.trace_id, child.parent.span_id) == (parent.context.trace_id, parent.context.span_id)
        and child.context.trace_id == parent.context.trace_id
    )


async def test_an_event_published_and_handled_on_another_node_is_one_trace(spans: Spans) -> None:
    async with eventbus.connect(node="server-1") as one, eventbus.connect(node="server-2") as two:
        seen: list[eventbus.Event] = []
        traced(two, spans.provider).on("order.*")(seen.append)
        await two.ready()
        await traced(one, spans.provider).publish("order.created", {"id": 1}, headers={"tenant": "acme"})
        handled = await spans.one("process order.created")
        sent = await spans.one("publish order.created")
    assert tied(sent, handled)
    assert (sent.kind, handled.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert seen[0].headers is not None
    assert seen[0].headers["tenant"] == "acme"
    trace, span = sent.context.trace_id, sent.context.span_id
    assert seen[0].headers["traceparent"].startswith(f"00-{trace:032x}-{span:016x}-")
    assert handled.attributes is not None
    assert handled.attributes["messaging.destination.name"] == "#order.created"
    assert handled.attributes["messaging.message.id"] == seen[0].id


async def test_a_request_and_its_answer_are_one_trace(spans: Spans) -> None:
    async with eventbus.connect(node="server-1") as bus:
        tracing = traced(bus, spans.provider)

        async def answer(event: eventbus.Event) -> None:
            await tracing.reply(event, "pong")

        async with tracing.client("acme/bob", handler=answer):
            assert (await tracing.request("acme/bob", "ping")).data == "pong"
            handled = await spans.one("process ping")
    asked, replied = await spans.one("request ping"), await spans.one("reply ping")
    assert tied(asked, handled)
    assert tied(handled, replied)


async def test_a_reader_of_a_client_marks_where_an_event_is_handled(spans: Spans) -> None:
    async with eventbus.connect(node="server-1") as bus:
        tracing = traced(bus, spans.provider)
        async with tracing.client("acme/alice") as alice:
            await alice.send("acme/alice", "note", 1)
            event = await alice.client.receive()
            with alice.handling(event):
                await tracing.broadcast("seen")
    sent, handled, seen = [await spans.one(name) for name in ("send note", "process note", "broadcast seen")]
    assert tied(sent, handled)
    assert tied(handled, seen)


async def test_the_exception_of_a_handler_is_in_its_span(spans: Spans) -> None:
    async with eventbus.connect(node="server-1") as bus:

        def fail(event: eventbus.Event) -> None:
            raise RuntimeError("the ceiling fell down")

        traced(bus, spans.provider).on("order.*")(fail)
        await bus.publish("order.created")
        handled = await spans.one("process order.created")
        assert handled.status.status_code == StatusCode.ERROR
        assert [event.name for event in handled.events] == ["exception"]
        assert bus.stats().handler_failures == 1


async def test_an_event_that_is_not_accepted_is_an_error_of_its_span(spans: Spans) -> None:
    async with eventbus.connect(node="server-1") as bus:
        with pytest.raises(eventbus.ClientNotFound):
            await traced(bus, spans.provider).send("acme/nobody", "greeting")
    assert (await spans.one("send greeting")).status.status_code == StatusCode.ERROR


async def test_a_handler_goes_by_its_own_name_and_once_means_once(spans: Spans) -> None:
    async with eventbus.connect(node="server-1") as bus:
        tracing = traced(bus, spans.provider)
        seen: list[tuple[str, str]] = []

        @tracing.on("a")
        @tracing.on("b")
        def handle(event: eventbus.Event) -> None:
            seen.append(("on", event.type))

        @tracing.once("a")
        def handle_once(event: eventbus.Event) -> None:
            seen.append(("once", event.type))

        for topic in ("a", "b", "a"):
            await tracing.publish(topic)
        await until(lambda: len(seen) == 4)
        tracing.off(handle)
        await tracing.emit("a")
    assert sorted(seen) == [("on", "a"), ("on", "a"), ("on", "b"), ("once", "a")]
    assert len(spans.named("process a")) == 3


async def test_a_bus_that_is_not_traced_pays_nothing() -> None:
    """Sending and handling call the same functions as often, whether the module is there and wraps the bus or not."""

    async def calls(bus: eventbus.Bus, alice: eventbus.Client) -> Counter[str]:
        counted: Counter[str] = Counter()

        def count(frame: FrameType, event: str, _argument: object) -> None:
            if event == "call":
                counted[f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"] += 1

        sys.setprofile(count)
        try:
            for number in range(100):
                await bus.send("acme/alice", "greeting", number)
                await alice.receive()
        finally:
            sys.setprofile(None)
        return counted

    async with eventbus.connect(node="server-1") as bus, bus.client("acme/alice") as alice:
        await calls(bus, alice)
        before = await calls(bus, alice)
        traced(bus).on("order.*")(print)
        after = await calls(bus, alice)
        assert before == after
        assert not any("otel" in name or "opentelemetry" in name for name in after)


async def test_without_a_provider_no_header_is_added() -> None:
    async with eventbus.connect(node="server-1") as bus, bus.client("acme/alice") as alice:
        await traced(bus).send("acme/alice", "greeting")
        assert (await alice.receive()).headers is None
