"""An asynchronous iterator that is closed after its use."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import TypeVar

T = TypeVar("T")


def closing_iterator(items: AsyncIterator[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]:
    """
    Return a context manager that closes *items* at its end, if that is a generator.

    A loop that is left early does not do that: its generator would run on until it is collected.
    """
    return aclosing(items) if isinstance(items, AsyncGenerator) else nullcontext(items)
