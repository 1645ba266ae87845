"""Functions of the application, which the bus calls."""

from __future__ import annotations

from collections.abc import Callable
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
