"""Lets a component notify others without knowing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Signal(Generic[P]):
    """
    Calls every connected function, in the order in which they were connected.

    A component of a higher layer connects itself in its constructor, or the composition root connects the two.
    Applications get a :class:`Hook` instead, which runs in a task of its own.
    """

    __slots__ = ("_functions",)

    def __init__(self) -> None:
        self._functions: tuple[Callable[P, object], ...] = ()  # most have none or one

    def connect(self, function: Callable[P, object]) -> None:
        """Call *function*, too, from now on."""
        self._functions += (function,)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call every connected function; an exception of one is raised here."""
        for function in self._functions:
            function(*args, **kwargs)
