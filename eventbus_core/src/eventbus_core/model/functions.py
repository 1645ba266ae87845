"""Functions of the application, which the bus calls."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import TypeVar

from eventbus_core.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., object])


def check_function(function: F) -> F:
    """
    Return *function*.

    Raises:
        ConfigurationError: it cannot be called. Otherwise each event would fail, and count as handled.
    """
    if not callable(function):
        raise ConfigurationError(f"a handler or hook must be a function, or another object to call, not {function!r}")
    return function


def check_plain_function(function: F) -> F:
    """
    Return *function*, which a thread is to call.

    Raises:
        ConfigurationError: it cannot be called, or is async. Otherwise each event would count as handled, and the
            function would never run.
    """
    check_function(function)
    if iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__):
        raise ConfigurationError(
            f"a handler or hook of a blocking bus is called in a thread, and must be a plain function, not the async "
            f"{function!r}; write 'def' in place of 'async def', or open the bus with connect"
        )
    return function
