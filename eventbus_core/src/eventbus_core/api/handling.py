"""Handlers of a node: functions that are called for the events of a pattern."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

from eventbus_core.api.registering import registers
from eventbus_core.errors import RequestTimeout
from eventbus_core.mailbox.handler import Handler, HandlerFunction
from eventbus_core.model.decodable import decoder_into
from eventbus_core.model.event import Event
from eventbus_core.model.names import check_pattern
from eventbus_core.node.node import LocalNode
from eventbus_core.routing.requests import Pending

F = TypeVar("F", bound=HandlerFunction)


def _decorator(register: Callable[[HandlerFunction], object]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        register(function)
        return function

    return decorate


class Handling:
    """Registers handlers at the node of the bus, and waits for single events."""

    _node: LocalNode
    _renewed: dict[Handler, Handler]  # what replaced the handlers that were registered before a fork

    @registers(lambda: Registration)
    def on(
        self, pattern: str, function: HandlerFunction | None = None, *, data: Any = None, local: bool = False
    ) -> Callable[[F], F] | Registration:
        """
        Register *function*, a plain or an async function of one event; without it, return a decorator that does.

        It gets the topics that match *pattern*, and events sent to this node or broadcast whose
        type does; in order, one after the other. What it raises is logged, counted and told to
        ``on_error``. To be sure that events of other nodes arrive, await :meth:`ready`.

        Args:
            pattern: a topic in which ``*`` stands for one token, and a last ``>`` for one or more.
            function: what is called; a decorator has none.
            data: a type that the data must have, any that msgspec can decode, or a model of pydantic; ``event.data``
                is one, and the handler takes an ``Event[T]``.
            local: handle only what this node itself emits, publishes or broadcasts.

        Returns:
            A :class:`Registration` that can be taken off alone; from the decorator, the function itself.

        Raises:
            EventDataError: *data* is no such type.
            InvalidName: *pattern* is none.
            LimitExceeded: this node has as many patterns as it may.
        """
        register = self._registering(pattern, data, local, once=False)
        return _decorator(register) if function is None else register(function)

    @registers(lambda: Registration)
    def once(
        self, pattern: str, function: HandlerFunction | None = None, *, data: Any = None, local: bool = False
    ) -> Callable[[F], F] | Registration:
        """Do what :meth:`on` does, for the first event alone."""
        register = self._registering(pattern, data, local, once=True)
        return _decorator(register) if function is None else register(function)

    def _registering(
        self, pattern: str, data: Any, local: bool, *, once: bool
    ) -> Callable[[HandlerFunction], Registration]:
        check_pattern(pattern)
        if data is not None:
            decoder_into(data)  # raises before the decorator is applied

        def register(function: HandlerFunction) -> Registration:
            node = self._node
            node.state.check_addition()
            before = node.handlers.remove if once else None
            handler = Handler(node.scheduler, pattern, function, data=data, local=local, before=before)
            node.handlers.add(handler)
            return Registration(self, handler)

        return register

    def _renew(self, former: LocalNode) -> None:
        """Register the handlers of *former*, which this node replaces."""
        node = self._node
        fresh = {handler: handler.renewed(node.scheduler, node.handlers.remove) for handler in former.handlers}
        for handler in fresh.values():
            node.handlers.add(handler)
        self._renewed = {first: fresh[last] for first, last in self._renewed.items() if last in fresh} | fresh

    def _take_off(self, handler: Handler) -> None:
        self._node.state.check_change()
        self._node.handlers.remove(self._renewed.get(handler, handler))

    def off(self, function: HandlerFunction) -> None:
        """Undo every :meth:`on` and :meth:`once` of *function*; does nothing if there is none."""
        self._node.state.check_change()
        for handler in self._node.handlers.of(function):
            self._node.handlers.remove(handler)

    async def wait_for(
        self, pattern: str, *, match: Callable[[Event], bool] | None = None, timeout: float | None = None
    ) -> Event:
        """
        Return the next event that a handler of *pattern* would get and for which *match* is true.

        Raises:
            RequestTimeout: none came within *timeout* seconds.
            InvalidName: *pattern* is none.
        """
        pending = Pending()

        def settle(event: Event) -> None:
            try:
                if match is None or match(event):
                    pending.settle(event)
            except BaseException as error:
                pending.settle(self._node.services.contain("match of wait_for", error))

        handler = Handler(self._node.scheduler, check_pattern(pattern), settle)
        self._node.state.check_waiting()
        self._node.handlers.add(handler)
        try:
            with self._node.deadlines.within(
                timeout, lambda: RequestTimeout(f"an event that matches {pattern!r}", timeout or 0.0)
            ):
                return await pending.wait()
        finally:
            self._node.handlers.remove(handler)

    async def ready(self) -> None:
        """Return once the events of other nodes arrive for every handler and subscription made so far."""
        await self._node.joining.subscribed()


class Registration:
    """
    A handler that :meth:`Bus.on` or :meth:`Bus.once` registered.

    Within ``async with`` it is registered and ready: events of other nodes arrive; leaving the block takes it off.

    Attributes:
        pattern: of its events.
    """

    __slots__ = ("_handler", "_handling", "pattern")

    def __init__(self, handling: Handling, handler: Handler) -> None:
        self.pattern = handler.name
        self._handling = handling
        self._handler = handler

    def off(self) -> None:
        """
        Take the handler off, and no other registration of its function; does nothing on successive calls.

        It gets no more events; those that wait for it and were sent to this node alone are reported to their senders.
        """
        self._handling._take_off(self._handler)

    async def __aenter__(self) -> Self:
        try:
            if not self._handler.local:
                await self._handling._node.joining.subscribed(self.pattern)
        except BaseException:
            self.off()
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.off()

    def __repr__(self) -> str:
        return f"<Registration of {self._handler.function!r} for {self.pattern!r}>"
