"""What the faults suite itself is made of: accounts that miss nothing, journals that outlive a process, the proxy."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from contextlib import suppress
from pathlib import Path
from time import monotonic

import anyio
import attrs
import pytest

from eventbus import Gap
from eventbus_core.cli.demo.plan import Plan
from tests.faults.audit import Book, Figures, audit, lanes_of
from tests.faults.journal import Entry, Journal, length, read
from tests.faults.proxy import Proxy
from tests.faults.table import Row, line, table
from tests.servers import HOST
from tests.support import DEADLINE, until

PLAN = Plan("test", nodes=2, clients=2, seconds=0.0)  # node 0 holds client 0, node 1 client 1
LANES = lanes_of(PLAN, 64)
FAR = PLAN.stream(0, 1)  # from node 0 to client 1
WIDE = PLAN.stream(0, PLAN.clients)  # from node 0 to the first topic


def at(stream: int, *numbers: int, since: int = 0) -> list[Entry]:
    return [(stream, number, since + turn) for turn, number in enumerate(numbers, 1)]


def test_events_that_came_in_order_and_once_count_as_delivered() -> None:
    figures = audit(PLAN, LANES, {0: Book(sent=at(FAR, 0, 1, 2)), 1: Book(handled=at(FAR, 0, 1, 2, since=5))})
    assert attrs.astuple(figures)[:9] == (3, 3, 0, 0, 0, 0, 0, 0, 0)


def test_each_flaw_is_counted() -> None:
    figures = audit(PLAN, LANES, {0: Book(sent=at(FAR, 0, 1, 2, 3)), 1: Book(handled=at(FAR, 0, 2, 1, 1))})
    assert (figures.delivered, figures.lost, figures.doubled, figures.reordered) == (3, 1, 1, 1)
    assert figures.silent == 1


@pytest.mark.parametrize(("missed", "silent"), [(0, 2), (1, 1), (2, 0), (3, 1)])
def test_a_loss_is_silent_unless_a_gap_tells_of_it_exactly(missed: int, silent: int) -> None:
    gaps = [Gap("@node-1", "n:node-2", missed)]
    figures = audit(PLAN, LANES, {0: Book(sent=at(FAR, 0, 1, 2)), 1: Book(handled=at(FAR, 1), gaps=gaps)})
    assert (figures.lost, figures.gaps, figures.silent) == (2, missed, silent)


def test_a_gap_of_another_partition_excuses_nothing() -> None:
    gaps = [Gap("@node-1", "all", 1)]
    figures = audit(PLAN, LANES, {0: Book(sent=at(FAR, 0, 1)), 1: Book(handled=at(FAR, 1), gaps=gaps)})
    assert (figures.lost, figures.silent) == (1, 2)


def test_every_node_receives_a_topic() -> None:
    books = {0: Book(sent=at(WIDE, 0, 1), handled=at(WIDE, 0, 1)), 1: Book(handled=at(WIDE, 1))}
    figures = audit(PLAN, LANES, books)
    assert (figures.sent, figures.lost, figures.silent) == (4, 1, 1)
    told = attrs.evolve(books[1], gaps=[Gap("@node-1", LANES[PLAN.clients], 1)])
    assert audit(PLAN, LANES, {**books, 1: told}).silent == 0


def test_events_reported_undeliverable_do_not_count_as_silent_losses() -> None:
    books = {0: Book(sent=at(FAR, 0, 1, 2), reported=at(FAR, 1, 2)), 1: Book(handled=at(FAR, 0, 1))}
    figures = audit(PLAN, LANES, books)
    assert (figures.lost, figures.reported, figures.premature, figures.silent) == (1, 2, 1, 0)


def test_of_a_dead_node_only_events_that_arrived_count() -> None:
    books = {0: Book(sent=at(FAR, 0, 1, 2, 3)), 1: Book(handled=at(FAR, 0, 2))}
    figures = audit(PLAN, LANES, books, dead=[0])
    assert (figures.sent, figures.lost, figures.silent) == (3, 1, 1)


def test_of_a_node_that_left_all_that_it_accepted_counts_but_no_topic_for_it() -> None:
    books = {0: Book(sent=at(FAR, 0, 1) + at(WIDE, 0)), 1: Book(handled=at(FAR, 0) + at(WIDE, 0))}
    figures = audit(PLAN, LANES, books, left=[0])
    assert (figures.sent, figures.lost, figures.silent) == (3, 1, 1)


def test_silence_and_latency() -> None:
    sent = [(FAR, 0, 0), (FAR, 16, 9_000_000_000)]
    handled = [(FAR, 0, 1_000_000_000), (FAR, 16, 9_500_000_000)]
    figures = audit(PLAN, LANES, {0: Book(sent=sent), 1: Book(handled=handled)})
    assert (figures.silence, figures.p99) == (8.5, 1000.0)


def test_a_row_of_the_table() -> None:
    figures = Figures(sent=12_345, delivered=12_344, lost=1, gaps=1, silence=1.26, p99=17.4)
    assert "12,345 sent, 12,344 delivered, 1 lost" in line("name", figures)
    shown = table([Row("name", figures, "short", "redis", "here")])
    assert shown.splitlines()[-1] == "| name | 12,345 | 12,344 | 1 | 0 | 0 | 1 | 0 | 1.3 s | 17 ms |"


def _write(path: Path) -> None:
    journal = Journal(path)
    for number in range(3):
        journal.add(7, number)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_journal_outlives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert (length(path), read(path)) == (0, [])
    process = multiprocessing.get_context("spawn").Process(target=_write, args=[path])
    process.start()
    process.join(DEADLINE)
    assert process.exitcode == -signal.SIGKILL
    assert [(stream, number) for stream, number, _ in read(path, 1)] == [(7, 1), (7, 2)]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_proxy_does_as_it_is_told() -> None:
    received = bytearray()
    sizes: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            received.extend(data)
            sizes.append(len(data))
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(b"one")
        await until(lambda: received == b"one")
        proxy.delay = 0.05
        sent = monotonic()
        writer.write(b"two")
        await until(lambda: received == b"onetwo")
        assert monotonic() - sent >= 0.05
        proxy.delay = 0.0
        proxy.passing.clear()
        writer.write(b"three")
        with anyio.move_on_after(0.05):
            await reader.read()
        assert received == b"onetwo"
        proxy.passing.set()
        await until(lambda: received == b"onetwothree")
        proxy.dribble = True
        writer.write(b"x" * 50)
        await until(lambda: received.endswith(b"x" * 50))
        assert len(sizes) > 3 + 5
        proxy.cut()
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
