"""
Traces of events by OpenTelemetry: ``pip install 'eventbus[otel]'``.

A bus is wrapped from outside: who does not ask for traces pays nothing for them. The context travels
in the headers ``traceparent`` and ``tracestate``, as W3C Trace Context has it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self, TypeVar

from eventbus_core._version import __version__
from eventbus_core.bus import Bus
from eventbus_core.client import Client
from eventbus_core.event import Event
from eventbus_core.handlers import HandlerFunction
from eventbus_core.names import topic_address
from eventbus_core.sender import Headers

try:
    from opentelemetry.trace import Span, SpanKind, Tracer, TracerProvider, get_tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImportError(
        "eventbus_core.otel needs opentelemetry-api: pip install 'eventbus[otel]'", name=error.name
    ) from error

__all__ = ("TracedBus", "TracedClient", "traced")

F = TypeVar("F", bound=HandlerFunction)

SYSTEM: Final = "eventbus"
_CONTEXT: Final = TraceContextTextMapPropagator()


def traced(bus: Bus, tracer_provider: TracerProvider | None = None) -> TracedBus:
    """Return what sends and handles as *bus* does, with a span for each; the global provider's if none is given."""
    return TracedBus(bus, get_tracer("eventbus", __version__, tracer_provider))


class _Sender:
    """
    What a bus and a client have in common: each event is sent within a span of its own.

    The span is named by what is done and the event's type, for example ``publish order.created``.
    """

    def __init__(self, sender: Bus | Client, tracer: Tracer) -> None:
        self._sender = sender
        self._tracer = tracer

    async def send(
        self,
        target: str,
        type: str,
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
    ) -> None:
        """Do what :meth:`Bus.send` does."""
        with self._sending("send", type, target, headers) as carrier:
            await self._sender.send(target, type, data, headers=carrier, expires=expires)

    async def publish(self, topic: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Do what :meth:`Bus.publish` does."""
        with self._sending("publish", topic, topic_address(topic), headers) as carrier:
            await self._sender.publish(topic, data, headers=carrier)

    async def request(
        self,
        target: str,
        type: str,
        data: object = None,
        *,
        timeout: float = 5.0,
        headers: Headers | None = None,
    ) -> Event:
        """Do what :meth:`Bus.request` does; the span lasts until the answer is there."""
        with self._sending("request", type, target, headers, SpanKind.CLIENT) as carrier:
            return await self._sender.request(target, type, data, timeout=timeout, headers=carrier)

    async def reply(self, request: Event, data: object = None, *, headers: Headers | None = None) -> None:
        """Do what :meth:`Bus.reply` does."""
        with self._sending("reply", request.type, request.source, headers) as carrier:
            await self._sender.reply(request, data, headers=carrier)

    @contextmanager
    def handling(self, event: Event) -> Iterator[Span]:
        """
        Within it, be in the span in which *event* is handled, a child of that in which it was sent.

        Handlers have it by themselves; it is for those who iterate over a client.
        """
        with self._tracer.start_as_current_span(
            f"process {event.type}",
            context=_CONTEXT.extract(event.headers or {}),
            kind=SpanKind.CONSUMER,
            attributes={
                **_attributes("process", event.target),
                "messaging.message.id": event.id,
                "messaging.message.body.size": len(memoryview(event.raw)),
            },
        ) as span:
            yield span

    @contextmanager
    def _sending(
        self, operation: str, type: str, target: str, headers: Headers | None, kind: SpanKind = SpanKind.PRODUCER
    ) -> Iterator[Headers | None]:
        attributes = _attributes(operation, target)
        with self._tracer.start_as_current_span(f"{operation} {type}", kind=kind, attributes=attributes):
            carrier = dict(headers or {})
            _CONTEXT.inject(carrier)
            yield carrier or None


class _TracedHandler:
    """Handles each event within a span; equal to the *function* itself, so that :meth:`Bus.off` finds it."""

    def __init__(self, sender: _Sender, function: HandlerFunction) -> None:
        self._sender = sender
        self._function = function

    async def __call__(self, event: Event) -> None:
        with self._sender.handling(event):
            result = self._function(event)
            if inspect.isawaitable(result):
                await result

    def __eq__(self, other: object) -> bool:
        return other == self._function

    def __hash__(self) -> int:
        return hash(self._function)


class TracedBus(_Sender):
    """
    A bus that makes a span for each event it sends, and for each that a handler of its handles.

    Attributes:
        bus: the bus itself, for all else.
    """

    def __init__(self, bus: Bus, tracer: Tracer) -> None:
        super().__init__(bus, tracer)
        self.bus = bus

    async def broadcast(
        self, type: str, data: object = None, *, headers: Headers | None = None, include_self: bool = True
    ) -> None:
        """Do what :meth:`Bus.broadcast` does."""
        with self._sending("broadcast", type, "*", headers) as carrier:
            await self.bus.broadcast(type, data, headers=carrier, include_self=include_self)

    async def emit(self, type: str, data: object = None, *, headers: Headers | None = None) -> None:
        """Do what :meth:`Bus.emit` does."""
        with self._sending("emit", type, self.bus.address, headers) as carrier:
            await self.bus.emit(type, data, headers=carrier)

    def on(self, pattern: str, *, data: Any = None, local: bool = False) -> Callable[[F], F]:
        """Do what :meth:`Bus.on` does."""

        def register(function: F) -> F:
            self.bus.on(pattern, data=data, local=local)(_TracedHandler(self, function))
            return function

        return register

    def once(self, pattern: str, *, data: Any = None, local: bool = False) -> Callable[[F], F]:
        """Do what :meth:`on` does, for the first event alone."""

        def register(function: F) -> F:
            self.bus.once(pattern, data=data, local=local)(_TracedHandler(self, function))
            return function

        return register

    def off(self, function: HandlerFunction) -> None:
        """Do what :meth:`Bus.off` does."""
        self.bus.off(function)

    def client(self, name: str, *, handler: HandlerFunction | None = None, **options: Any) -> TracedClient:
        """Do what :meth:`Bus.client` does."""
        function = None if handler is None else _TracedHandler(self, handler)
        return TracedClient(self.bus.client(name, handler=function, **options), self._tracer)


class TracedClient(_Sender):
    """
    A client that makes a span for each event it sends, and for each that its handler handles.

    Entering and leaving it enters and leaves the client.

    Attributes:
        client: the client itself, to iterate over and for all else.
    """

    def __init__(self, client: Client, tracer: Tracer) -> None:
        super().__init__(client, tracer)
        self.client = client

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self.client.__aexit__(*exception)


def _attributes(operation: str, target: str) -> dict[str, str]:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.destination.name": target,
    }
