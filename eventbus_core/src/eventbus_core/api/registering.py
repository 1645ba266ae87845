"""The types of ``on`` and ``once``, written once for each kind of bus: a handler gets events of its type."""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType
from typing import Any, Protocol, TypeVar, cast, overload

from eventbus_core.mailbox.handler import HandlerFunction
from eventbus_core.model.event import Event, Into

T = TypeVar("T")
R = TypeVar("R")
F = TypeVar("F", bound=HandlerFunction)
Registered_co = TypeVar("Registered_co", covariant=True)


class Register(Protocol[Registered_co]):
    """Registers a function at once, or returns a decorator that does."""

    @overload
    def __call__(self, pattern: str, *, data: None = None, local: bool = False) -> Callable[[F], F]: ...

    @overload
    def __call__(
        self, pattern: str, *, data: Into[T], local: bool = False
    ) -> Callable[[Callable[[Event[T]], R]], Callable[[Event[T]], R]]: ...

    @overload
    def __call__(self, pattern: str, *, data: UnionType, local: bool = False) -> Callable[[F], F]: ...

    @overload
    def __call__(
        self, pattern: str, function: Callable[[Event[T]], object], *, data: Into[T], local: bool = False
    ) -> Registered_co: ...

    @overload
    def __call__(
        self, pattern: str, function: HandlerFunction, *, data: UnionType | None = None, local: bool = False
    ) -> Registered_co: ...


class RegisterMethod(Protocol[Registered_co]):
    """A method of the type :class:`Register`."""

    def __get__(self, instance: object, owner: type | None = None, /) -> Register[Registered_co]: ...


def registers(
    _kind: Callable[[], type[Registered_co]], /
) -> Callable[[Callable[..., Any]], RegisterMethod[Registered_co]]:
    """Return a decorator that gives a method the type of one that registers functions, and changes nothing else."""
    return lambda method: cast("RegisterMethod[Registered_co]", method)
