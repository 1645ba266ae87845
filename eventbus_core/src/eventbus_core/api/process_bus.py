"""The bus of a process, for code that has no place to open one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from threading import Lock
from typing import Final, Unpack
from weakref import WeakSet

import anyio
from anyio import to_thread

from eventbus_core.api.blocking import BlockingBus, connect_blocking
from eventbus_core.api.connect_options import ConnectOptions
from eventbus_core.api.discovery import load_backend
from eventbus_core.api.exit_on_sigterm import exit_on_sigterm
from eventbus_core.api.portal import Portal
from eventbus_core.backend import TransportURI

_buses: Final[WeakSet[ProcessBus]] = WeakSet()


def _after_fork() -> None:
    for bus in list(_buses):
        bus._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)  # before the child has threads that could use a bus


class ProcessBus:
    """
    The bus of a process: its first use opens it in a thread, for every event loop and thread.

    It is for code that has no place to open a bus, such as a part of a web framework whose server forks. After a fork,
    and after :meth:`close`, the next use opens another bus; if it has ended by itself, the next use raises why, and the
    one after that opens another. The exit of the interpreter closes it; so does SIGTERM, once the server has stopped,
    if the first use is in the main thread.

    Args:
        uri: of the bus; with *options* as for :func:`connect`.
        enter: called with the portal of each bus that is opened, before its first use: to claim clients, for example.

    Raises:
        ConfigurationError: the URI is none, or its backend is not installed.
    """

    def __init__(
        self,
        uri: str = "memory://",
        enter: Callable[[Portal], Awaitable[None]] | None = None,
        **options: Unpack[ConnectOptions],
    ) -> None:
        load_backend(TransportURI.parse(uri).scheme)  # a mistake in the settings is told when they are read
        self._connect = partial(connect_blocking, uri, **options)
        self._enter = enter
        self._begin()
        _buses.add(self)

    def _begin(self) -> None:
        """Be a bus that has not been used in this process."""
        self._lock = Lock()
        self._opened: tuple[BlockingBus, Portal] | None = None

    async def open(self) -> Portal:
        """
        Return the open bus of this process. If this is cancelled while it opens, the next call returns it.

        Raises:
            TransportUnavailable, ConfigurationError, NodeAlreadyPresent: it cannot be opened now, or has ended by this
                error; the next call tries.
        """
        opened = self._opened
        if opened is None or not opened[1]._bus._node.state.accepting:  # ``state`` takes longer
            exit_on_sigterm()
            opened = await to_thread.run_sync(self._open, abandon_on_cancel=True)
        return opened[1]

    def close(self) -> None:
        """Close the bus of this process, if it is open; code in an event loop calls this in a thread."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[0].close()

    def _open(self) -> tuple[BlockingBus, Portal]:
        with self._lock:
            if self._opened is not None and self._opened[1].state == "closed":
                self.close()  # raises why it has ended
            if self._opened is None:
                bus = self._connect().open()
                portal = bus.portal()
                try:
                    if self._enter is not None:
                        anyio.run(self._enter, portal)
                except BaseException:
                    bus.close()
                    raise
                self._opened = bus, portal
            return self._opened
