"""Suspicions whether a server still is a primary, which make other servers be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from eventbus_core.backend import Address
from eventbus_core.errors import EventBusError

SILENCE: Final = 1.0
"""Seconds without an answer until there are suspicions, and from one to the next."""


class Suspicions:
    """
    Collects suspicions about servers.

    Args:
        raised: called with the address of a server that may not be the primary any more.
    """

    def __init__(self, raised: Callable[[Address], None]) -> None:
        self.raise_about = raised

    @contextmanager
    def about(self, address: Address) -> Iterator[None]:
        """Have suspicions about the server at *address* while its answer is late, and if the block fails."""
        timer = _Timer(address, self.raise_about)
        try:
            yield
        except (EventBusError, OSError):
            self.raise_about(address)
            raise
        finally:
            timer.stop()


class _Timer:
    """Raises suspicions about *address* at each interval until it is stopped."""

    def __init__(self, address: Address, raised: Callable[[Address], None]) -> None:
        self._address = address
        self._raised = raised
        self._loop = asyncio.get_running_loop()
        self._start()

    def stop(self) -> None:
        self._handle.cancel()

    def _start(self) -> None:
        self._handle = self._loop.call_later(SILENCE, self._expire)

    def _expire(self) -> None:
        self._raised(self._address)
        self._start()
