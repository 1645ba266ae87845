"""Logs: fields for those who want them, and no flood whatever fails."""

from __future__ import annotations

import logging
from itertools import count

import pytest

import eventbus
from eventbus_core.backend import Claim, get_logger
from eventbus_core.observability.log import MOST, PERIOD
from tests.servers import RedisServer
from tests.support import until


@pytest.fixture
def logger() -> logging.Logger:
    return get_logger(f"eventbus.tests.{next(_numbers)}")


_numbers = count()


def record(text: str, *arguments: object, at: float, node: str = "a") -> logging.LogRecord:
    made = logging.LogRecord("eventbus", logging.WARNING, __file__, 1, text, arguments, None)
    made.created, made.node = at, node
    return made


def test_frequent_log_records_are_suppressed_and_counted(logger: logging.Logger) -> None:
    through = [logger.filter(record("no %s", number, at=100.0)) for number in range(MOST + 10)]
    assert [bool(found) for found in through] == [True] * MOST + [False] * 10
    later = record("no %s", 0, at=100.0 + PERIOD)
    assert logger.filter(later)
    assert later.getMessage() == "no 0 (10 similar records were suppressed)"
    assert vars(later)["left_out"] == 10
    quiet = record("no %s", 0, at=100.0 + 2 * PERIOD)
    assert logger.filter(quiet)
    assert quiet.getMessage() == "no 0"


def test_one_message_or_node_does_not_silence_another(logger: logging.Logger) -> None:
    for _ in range(MOST + 1):
        logger.filter(record("no", at=100.0))
    assert logger.filter(record("yes", at=100.0))
    assert logger.filter(record("no", at=100.0, node="b"))


def test_a_logger_has_one_limit_and_no_handler(logger: logging.Logger) -> None:
    assert get_logger(logger.name) is logger
    assert len(logger.filters) == 1
    handlers = list(logging.getLogger("eventbus").handlers)  # commands that ran in this process may have added some
    assert get_logger(f"eventbus.tests.{next(_numbers)}").handlers == logger.handlers == []
    assert logging.getLogger("eventbus").handlers == handlers


async def test_a_hook_that_raises_for_every_event_does_not_flood_the_log(
    caplog: pytest.LogCaptureFixture, anyio_backend_name: str
) -> None:
    async with eventbus.connect(node=anyio_backend_name) as bus:
        calls = 0

        @bus.on_undeliverable
        def fail(fate: eventbus.Undeliverable) -> None:
            nonlocal calls
            calls += 1
            raise RuntimeError("the ceiling fell down")

        for _ in range(1000):
            await bus.send(bus.address, "without.handler")
        await until(lambda: calls == 1000)
    told = [found for found in caplog.records if found.msg.startswith("hook")]
    assert 0 < len(told) <= 100, "a second of them is 5"
    assert (vars(told[0])["node"], vars(told[0])["hook"]) == (anyio_backend_name, "on_undeliverable")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_outage_is_told_in_fields_and_few_words(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "eventbus")
    async with eventbus.connect(redis_server.uri, node="server-1") as bus:
        redis_server.kill()
        await bus.broadcast("n", include_self=False)
        await until(lambda: bus.stats().write_failures >= 5)
        redis_server.start()
        await until(lambda: bus.state == "open" and bus.stats().interruptions > 0)
    ours = [found for found in caplog.records if found.name.startswith("eventbus")]
    assert 0 < len(ours) <= 30
    assert {vars(found).get("node") for found in ours} == {"server-1"}
    (back,) = [vars(found) for found in ours if found.getMessage().startswith("node server-1: broker available again")]
    assert back["seconds"] > 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_clients_that_leave_during_an_outage_do_not_flood_the_log(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "eventbus")
    async with eventbus.connect(redis_server.uri) as bus:
        for outage in range(1, 3):
            guests = [await bus.client(f"guest/{number}").open() for number in range(10)]
            redis_server.kill()
            for guest in guests:  # one after the other, so that their releases do not go together
                await guest.aclose()
            told = [found for found in caplog.records if "could not release" in found.getMessage()]
            assert len(told) == outage
            redis_server.start()
            await until(lambda: not bus._node.ownership._owed and bus.state == "open", "the clients are released")


async def test_a_release_that_asks_nothing_of_the_directory_does_not_end_an_outage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as that of a client that was claimed alone: epoch 0."""
    caplog.set_level(logging.WARNING, "eventbus")

    async def refuse(_: object) -> None:
        raise eventbus.TransportUnavailable("away")

    async with eventbus.connect() as bus:
        monkeypatch.setattr(bus._node.directory, "release", refuse)
        for number in range(3):
            await (await bus.client(f"guest/{number}").open()).aclose()
            await bus._node.ownership._releases.ask(Claim("alone", 0, None))
    assert caplog.text.count("could not release") == 1
