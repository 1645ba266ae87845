"""
OpenTelemetry traces of events: ``pip install 'eventbus[otel]'``.

A wrapper around a bus makes the spans, so that a bus without traces has no cost. The context travels in
the headers ``traceparent`` and ``tracestate`` of W3C Trace Context.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Self, TypeVar

from eventbus_core._version import __version__
from eventbus_core.api.bus import Bus
from eventbus_core.api.client import Client
from eventbus_core.api.handling import Registration
from eventbus_core.api.registering import registers
from eventbus_core.mailbox.handler import HandlerFunction
from eventbus_core.model.event import Event
from eventbus_core.model.names import topic_address
from eventbus_core.routing.sender import Headers

try:
    from opentelemetry.trace import Span, SpanKind, Tracer, TracerProvider, get_tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImportError(
        "eventbus_core.integrations.otel needs opentelemetry-api: pip install 'eventbus[otel]'", name=error.name
    ) from error

__all__ = ("TracedBus", "TracedClient", "traced")

F = TypeVar("F", bound=HandlerFunction)

SYSTEM: Final = "eventbus"
_CONTEXT: Final = TraceContextTextMapPropagator()


def traced(bus: Bus, tracer_provider: TracerProvider | None = None) -> TracedBus:
    """Return a wrapper of *bus* with a span for each event; without *tracer_provider*, the global one is used."""
    return TracedBus(bus, get_tracer("eventbus", __version__, tracer_provider))


class _Sender:
    """
    The common part of bus and client: sends each event within a span of its own.

    The name of a span is the operation and the type of the event, for example ``publish order.created``.
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
        timeout: float | None = None,
    ) -> str:
        """Do what :meth:`Bus.send` does."""
        with self._sending("send", type, target, headers) as carrier:
            return await self._sender.send(target, type, data, headers=carrier, expires=expires, timeout=timeout)

    async def publish(
        self,
        topic: str | Sequence[str],
        data: object = None,
        *,
        headers: Headers | None = None,
        expires: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """Do what :meth:`Bus.publish` does."""
        topics = topic if isinstance(topic, str) else " ".join(topic)
        with self._sending("publish", topics, topic_address(topics), headers) as carrier:
            return await self._sender.publish(topic, data, headers=carrier, expires=expires, timeout=timeout)

    async def request(
        self,
        target: str,
        type: str,
        data: object = None,
        *,
        timeout: float = 5.0,
        headers: Headers | None = None,
    ) -> Event:
        """Do what :meth:`Bus.request` does; the span lasts until the answer arrives."""
        with self._sending("request", type, target, headers, SpanKind.CLIENT) as carrier:
            return await self._sender.request(target, type, data, timeout=timeout, headers=carrier)

    async def reply(
        self, request: Event, data: object = None, *, headers: Headers | None = None, timeout: float | None = None
    ) -> str:
        """Do what :meth:`Bus.reply` does."""
        with self._sending("reply", request.type, request.source, headers) as carrier:
            return await self._sender.reply(request, data, headers=carrier, timeout=timeout)

    @contextmanager
    def handling(self, event: Event) -> Iterator[Span]:
        """
        Run the body in a span for the handling of *event*, as a child of the span in which it was sent.

        Handlers run in such a span already; this is for code that iterates over a client.
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
    """Handles each event within a span; it equals *function*, so that :meth:`Bus.off` finds it."""

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
    A bus with a span for each event that it sends, and for each event that one of its handlers handles.

    Attributes:
        bus: the bus itself, for all other methods.
    """

    def __init__(self, bus: Bus, tracer: Tracer) -> None:
        super().__init__(bus, tracer)
        self.bus = bus

    async def broadcast(
        self,
        type: str,
        data: object = None,
        *,
        headers: Headers | None = None,
        include_self: bool = True,
        expires: float | None = None,
        timeout: float | None = None,
    ) -> str:
        """Do what :meth:`Bus.broadcast` does."""
        with self._sending("broadcast", type, "*", headers) as carrier:
            return await self.bus.broadcast(
                type, data, headers=carrier, include_self=include_self, expires=expires, timeout=timeout
            )

    async def emit(
        self, type: str, data: object = None, *, headers: Headers | None = None, timeout: float | None = None
    ) -> str:
        """Do what :meth:`Bus.emit` does."""
        with self._sending("emit", type, self.bus.address, headers) as carrier:
            return await self.bus.emit(type, data, headers=carrier, timeout=timeout)

    @registers(lambda: Registration)
    def on(
        self, pattern: str, function: HandlerFunction | None = None, *, data: Any = None, local: bool = False
    ) -> Callable[[F], F] | Registration:
        """Do what :meth:`Bus.on` does."""
        return self._registering(partial(self.bus.on, pattern, data=data, local=local), function)

    @registers(lambda: Registration)
    def once(
        self, pattern: str, function: HandlerFunction | None = None, *, data: Any = None, local: bool = False
    ) -> Callable[[F], F] | Registration:
        """Do what :meth:`Bus.once` does."""
        return self._registering(partial(self.bus.once, pattern, data=data, local=local), function)

    def _registering(
        self, add: Callable[..., Any], function: HandlerFunction | None
    ) -> Callable[[F], F] | Registration:
        if function is not None:
            registration: Registration = add(_TracedHandler(self, function))
            return registration
        decorator = add()

        def register(function: F) -> F:
            decorator(_TracedHandler(self, function))
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
    A client with a span for each event that it sends, and for each event that its handler handles.

    ``async with`` opens and closes the client.

    Attributes:
        client: the client itself, to iterate over and for all other methods.
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
