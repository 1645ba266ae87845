"""SIGTERM drains the bus before it does anything else."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from threading import Thread
from types import FrameType

import anyio
import pytest

import eventbus
from tests.support import DEADLINE, Hooked, until


@pytest.fixture
def server() -> Iterator[Hooked]:
    """What the handler of a server has got that had set it before."""
    got = Hooked()

    def handle(number: int, _frame: FrameType | None) -> None:
        got.append(number)

    before = signal.signal(signal.SIGTERM, handle)
    yield got
    assert signal.getsignal(signal.SIGTERM) is handle
    signal.signal(signal.SIGTERM, before)


async def test_clients_go_before_the_server_gets_the_signal(server: Hooked) -> None:
    async with eventbus.connect(close_timeout=0.05) as bus, bus.client("bob") as bob:
        with eventbus.drain_on_sigterm(bus, over=0.1):
            os.kill(os.getpid(), signal.SIGTERM)
            with anyio.fail_after(DEADLINE):
                assert isinstance(await bob.ended(), eventbus.NodeDraining)
            assert server == []
            await bob.aclose()
            await until(lambda: server == [signal.SIGTERM])
            assert bus.state == "drained"


async def test_a_second_signal_gets_through_at_once(server: Hooked) -> None:
    async with eventbus.connect() as bus, bus.client("bob"):
        with eventbus.drain_on_sigterm(bus, over=3600):
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: bus.state == "draining")
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: server == [signal.SIGTERM])


async def test_a_server_whose_bus_is_closed_gets_the_signal(server: Hooked) -> None:
    bus = await eventbus.connect().open()
    with eventbus.drain_on_sigterm(bus):
        await bus.aclose()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: server == [signal.SIGTERM])


async def test_the_handler_is_back_after_the_block(server: Hooked) -> None:
    async with eventbus.connect() as bus:
        with eventbus.drain_on_sigterm(bus):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: server == [signal.SIGTERM])
        assert bus.state == "open"
        with pytest.raises(eventbus.OptionError), eventbus.drain_on_sigterm(bus, over=-1):
            pass


def test_other_threads_get_no_signal(server: Hooked) -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def serve() -> None:
        async with eventbus.connect() as bus:
            with eventbus.drain_on_sigterm(bus):
                assert signal.getsignal(signal.SIGTERM) is before

    failures = Hooked()

    def run() -> None:
        try:
            anyio.run(serve)
        except BaseException as error:
            failures.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join(DEADLINE)
    assert failures == []
    assert not thread.is_alive()
