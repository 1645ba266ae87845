"""SIGTERM drains the bus before the server does what it does upon SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

import anyio

from eventbus_core.api.bus import Bus
from eventbus_core.concurrency.loop_calls import call_soon
from eventbus_core.errors import BusClosed
from eventbus_core.node.draining import check_over


@contextmanager
def drain_on_sigterm(bus: Bus, over: float = 30.0) -> Iterator[None]:
    """
    Within the block, the first SIGTERM has *bus* drain within *over* seconds; the server gets the signal after that.

    Servers such as uvicorn close every connection at once when they get SIGTERM: enter the block once the server has
    set its handler, in its lifespan. A program that has set none waits for :meth:`Bus.drained` instead, and leaves. A
    second SIGTERM gets through at once. Other threads than the main one get no signals: there nothing is done.

    Raises:
        OptionError: *over* is no number of seconds up to 3600.
    """
    check_over(over)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    (_, soon), asked, ended = call_soon(), anyio.Event(), anyio.Event()
    server = signal.getsignal(signal.SIGTERM)

    def restore() -> None:
        if signal.getsignal(signal.SIGTERM) is drain_first:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if server is None else server)

    def drain_first(_signal: int, _frame: FrameType | None) -> None:
        restore()
        soon(ask)

    def ask() -> None:
        asked.set()
        if ended.is_set():
            pass_on()

    def pass_on() -> None:
        if callable(server):
            soon(partial(server, signal.SIGTERM, None))

    async def drain() -> None:
        try:
            await asked.wait()
            with suppress(BusClosed):
                await bus.drain(over)
        finally:  # also if the bus closes, or a task of it fails
            ended.set()
            if asked.is_set():
                pass_on()

    bus._node.services.start(drain)
    signal.signal(signal.SIGTERM, drain_first)
    try:
        yield
    finally:
        restore()
