"""Bad frames from someone who can write to the broker: counted by kind, logged seldom, dropped; the reader lives."""

from __future__ import annotations

import logging
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import msgspec
import pytest
from msgspec.structs import replace

import eventbus
from eventbus import Bus
from eventbus_core.api.discovery import load_backend
from eventbus_core.backend import ALL_NODES, Frame, Partition, Transport, TransportURI
from eventbus_core.membership.peer_directory.poll import Poll
from eventbus_core.model.event import Event, encode_event
from eventbus_core.model.numbers import MAX_NUMBER
from eventbus_core.observability.rejections import LOG_EVERY, Rejections
from eventbus_core.session.protocol import GRANT, MISSING, NOT_KEPT, RECEIVER_LEFT, WHERE
from eventbus_core.session.wire import Header, Note, SessionPosition, pack
from tests.fuzz.mutation import Mutator, forged
from tests.support import DEADLINE, Inbox, buses, fence, fresh_namespace, until

HEADER = Header("", "n1", 0, 7, "all", 1, 0, 0)
KINDS = ("malformed", "truncated", "checksum", "version", "foreign", "oversized", "left", "stale", "own event")
PROMISED = 1024 * 1024


@attrs.frozen
class Outsider:
    """Someone who can write to the broker, and knows the format of frames."""

    transport: Transport
    namespace: str

    async def write(self, partition: str, *frames: bytes) -> None:
        """Publish *frames* as they are."""
        await self.transport.publish([Frame(Partition(partition), frame) for frame in frames])

    def frame(self, *events: Event, notes: tuple[Note, ...] = (), **fields: object) -> bytes:
        """Return a frame of n1's, as it says, with other *fields* in its header."""
        told = {"namespace": self.namespace, "count": len(events), "notes": list(notes), **fields}
        return pack(replace(HEADER, **told), [encode_event(event) for event in events])


def event(kind: str = "forged", target: str = "*", data: bytes = b"\xc0") -> Event:
    return Event(kind, "@n1", target, "1-1", msgspec.Raw(data))


@asynccontextmanager
async def attacked(uri: str, count: int = 2, **options: Any) -> AsyncIterator[tuple[list[Bus], Outsider]]:
    """Open *count* buses, and a transport of an outsider, which belongs to none of them."""
    namespace = fresh_namespace()
    parsed = attrs.evolve(TransportURI.parse(uri), namespace=namespace)
    async with (
        buses(uri, count, namespace=namespace, **options) as opened,
        load_backend(parsed.scheme)(parsed, "outsider") as transport,
    ):
        yield opened, Outsider(transport, namespace)


async def test_g12_every_kind_of_bad_frame_is_counted_and_dropped(uri: str) -> None:
    """Whatever is wrong with a frame, it is counted by its kind, and what comes next is handled."""
    async with attacked(uri) as ((a, b), outsider):
        a.on("forged")(inbox := Inbox())
        await fence([a, b], [a, b])
        good = outsider.frame(event())
        bad = {
            "malformed": [
                b"<html>404 Not Found</html>",
                forged(b"\xc0", b"\xdd\0\0\0\0"),
                outsider.frame(event(), node="a b"),
                outsider.frame(event(), node=""),
                forged(good[12:][: int.from_bytes(good[4:6], "big")], b"\xdd\0\0\0\1\xc0......"),
            ],
            "truncated": [b"", good[:10], forged(b"", b"\xdd")],
            "checksum": [good[:-1] + b"\xc1"],
            "version": [good[:2] + b"\2" + good[3:]],
            "foreign": [outsider.frame(event(), namespace="another"), outsider.frame(event(), namespace="")],
            "left": [outsider.frame(event(), partition="l:3"), outsider.frame(event(), partition="n:n1")],
            "own event": [
                outsider.frame(event("$sys.moved", data=b"\xc0")),
                outsider.frame(event("$sys.taken-over", data=b"\x81\x80\xc0")),
            ],
        }
        for frames in bad.values():
            await outsider.write("n:n0", *frames)
            await outsider.write("all", *frames)
        await until(lambda: sum(a.stats().refused.values()) >= 2 * sum(map(len, bad.values())), "all are counted")
        assert a.stats().refused == {kind: 2 * len(frames) for kind, frames in bad.items()}
        assert len(inbox) == 0
        await fence([a, b], [a, b])


async def test_g12_an_oversized_frame_is_refused_unread(uri: str) -> None:
    async with attacked(uri) as ((a, b), outsider):
        limit = outsider.transport.capabilities.max_frame_size
        await outsider.write("n:n0", bytes(limit + 1))
        await until(lambda: a.stats().refused == {"oversized": 1}, "it is counted")
        await fence([b], [a])


async def test_g12_a_frame_of_a_former_incarnation_is_dropped(uri: str) -> None:
    """What a node sent in its former life, and what is replayed of it, is counted as stale, and not handled again."""
    namespace = fresh_namespace()
    parsed = attrs.evolve(TransportURI.parse(uri), namespace=namespace)
    async with (
        eventbus.connect(uri, node="n0", namespace=namespace) as a,
        load_backend(parsed.scheme)(parsed, "outsider") as transport,
    ):
        outsider = Outsider(transport, namespace)
        a.on("order")(inbox := Inbox())
        incarnations = []
        for _ in range(2):
            async with eventbus.connect(uri, node="n1", namespace=namespace) as b:
                incarnations.append(b.stats().incarnation)
                await b.broadcast("order", incarnations[-1])
                await fence([b], [a])
        await outsider.write("all", outsider.frame(event("order"), incarnation=incarnations[0], session=1, first=2))
        await until(lambda: a.stats().stale == 1, "it is counted")
        assert inbox.data == incarnations


async def test_g12_a_forged_incarnation_silences_no_node_for_long(uri: str) -> None:
    """
    A frame that claims a later incarnation of its sender is believed until the directory denies it.

    Then the sender's own sessions go on where they were: nothing of them is lost or doubled.
    """
    async with attacked(uri) as ((a, b), outsider), a.client("alice", handler=(inbox := Inbox())):
        a.on("news")(news := Inbox())
        await b.send("alice", "number", 0)
        await b.broadcast("news", 0)
        await inbox.got(1)
        await news.got(1)
        for partition in ("n:n0", "all"):
            await outsider.write(partition, outsider.frame(partition=partition, incarnation=MAX_NUMBER, session=99))
        for number in range(1, 50):
            await b.send("alice", "number", number)
            await b.broadcast("news", number)
        await inbox.got(50)
        await news.got(50)
        assert inbox.data == news.data == list(range(50))
        assert a.stats().stale
        assert a.stats().missed == 0


async def test_g12_a_flood_of_bad_frames_is_logged_seldom(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """However many bad frames there are, one of a kind is logged in a while."""
    with caplog.at_level(logging.INFO, "eventbus"):
        async with attacked(uri) as ((a, b), outsider):
            await fence([b], [a])
            await outsider.write("n:n0", *[b"rubbish of some length"] * 1000, *[b""] * 1000)
            await outsider.write("n:n0", *[outsider.frame(partition="l:9")] * 1000)
            await until(lambda: sum(a.stats().refused.values()) == 3000, "all are counted")
            await fence([b], [a])
    kinds = Counter(kind for record in caplog.records for kind in KINDS if f"({kind})" in record.getMessage())
    assert kinds == {"left": 1, "malformed": 1, "truncated": 1}


def test_g12_rejected_frames_are_logged_again_after_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = Rejections("n0")
    now = 100.0
    monkeypatch.setattr("eventbus_core.observability.log.monotonic", lambda: now)
    with caplog.at_level(logging.INFO, "eventbus"):
        for now in (100.0, 100.0 + LOG_EVERY - 1, 100.0 + LOG_EVERY, 101.0 + LOG_EVERY):  # noqa: B007
            refusals.add("checksum", "it is damaged")
    assert refusals.counts == {"checksum": 4}
    assert len(caplog.records) == 2


async def test_g12_notes_by_the_thousand_make_a_node_send_little(uri: str) -> None:
    """One frame that asks for everything many times over is answered within bounds, and the node lives on."""
    async with attacked(uri) as ((a, b), outsider):
        b.on("news")(inbox := Inbox())
        for number in range(100):
            await a.broadcast("news", bytes(60_000) + bytes([number]))
        await inbox.got(100)
        before = a.stats()
        session = a._node.sessions.outgoing(ALL_NODES).session
        notes = [
            *[Note(WHERE, number, positions=(SessionPosition("all"),)) for number in range(1000)],
            *[Note(MISSING, session, a.stats().incarnation, 1, MAX_NUMBER)] * 1000,
        ]
        small = [notes[start : start + 900] for start in range(0, len(notes), 900)]
        await outsider.write(
            "n:n0", *(outsider.frame(partition="n:n0", notes=tuple(part), incarnation=0) for part in small)
        )
        await outsider.write(
            "n:n0",
            *(outsider.frame(partition="n:n0", notes=tuple(part), incarnation=MAX_NUMBER, session=5) for part in small),
        )
        await fence([b], [a])
        await a._node.outbox.settled()  # what was asked for is sent
        assert a.stats().repaired - before.repaired < 1000


async def test_g12_forged_notes_end_in_losses_that_are_told(uri: str) -> None:
    """Notes with any numbers, of sessions that are there or not, neither stop a node nor make it lie to itself."""
    numbers = (0, 1, 2, 5, MAX_NUMBER - 1, MAX_NUMBER)
    async with attacked(uri) as ((a, b), outsider), a.client("alice", handler=(inbox := Inbox())):
        await fence([b], [a])
        notes = [
            Note(kind, session, incarnation, first, last, (SessionPosition("n:n0", session, first, last),))
            for kind in (GRANT, "ask", WHERE, "at", MISSING, NOT_KEPT, RECEIVER_LEFT, "unknown")
            for session in (0, 1, 3, MAX_NUMBER)
            for incarnation in (0, MAX_NUMBER)
            for first in numbers
            for last in numbers
        ]
        for start in range(0, len(notes), 300):
            part = tuple(notes[start : start + 300])
            await outsider.write("n:n0", outsider.frame(partition="n:n0", incarnation=2, session=start + 5, notes=part))
        await b.send("alice", "still.there")
        await inbox.got(1)


async def test_g12_counters_take_whatever_is_forged(uri: str) -> None:
    """Losses of any size can be counted and told: no number grows beyond what a frame can hold."""
    async with attacked(uri) as ((a, b), outsider):
        await fence([b], [a])
        for session in range(10, 20):
            frames = [
                outsider.frame(event(), session=session, incarnation=MAX_NUMBER, first=number)
                for number in (1, MAX_NUMBER)
            ]
            gone = Note(NOT_KEPT, session, MAX_NUMBER, 2, MAX_NUMBER - 1)
            await outsider.write("all", *frames)
            await outsider.write(
                "n:n0", outsider.frame(partition="n:n0", notes=(gone,), incarnation=MAX_NUMBER, session=9)
            )
        await until(lambda: a.stats().missed == MAX_NUMBER, "the losses are counted")
        assert (await b.node_stats("n0")).missed == MAX_NUMBER


def own_event(kind: str, data: object) -> Event:
    """Return what a node tells n0 for the bus itself."""
    return event(kind, "@n0", msgspec.msgpack.encode(data))


@pytest.mark.parametrize("name", ["n0", "a b"])
@pytest.mark.parametrize(
    ("kind", "data"), [("$sys.hear", {"number": 1}), ("$sys.taken-over", {"client": "alice", "epoch": 1})]
)
async def test_g12_no_frame_makes_a_node_answer_itself(uri: str, name: str, kind: str, data: dict[str, object]) -> None:
    """A message of a node to itself would wait for its own credit without end, and so would :meth:`Bus.flush`."""
    async with attacked(uri) as ((a, b), outsider):
        forgeries = [own_event(kind, {**data, "node": name})] * 4000
        await outsider.write("n:n0", outsider.frame(*forgeries, partition="n:n0"))
        await until(lambda: a.stats().refused == {"own event": len(forgeries)}, "all are counted")
        await fence([b], [a])
        assert a._node.outbox.known(name) is None
        await a.flush()


@pytest.mark.parametrize("seconds", [float("nan"), -1.0])
async def test_g12_no_frame_makes_a_client_linger_without_end(uri: str, seconds: float) -> None:
    async with attacked(uri) as ((a, b), outsider):
        forgery = own_event("$sys.adopt", {"node": "n1", "clients": {"alice": seconds}})
        await outsider.write("n:n0", outsider.frame(forgery, partition="n:n0"))
        await fence([b], [a])
        assert a.stats().refused == {"own event": 1}
        assert await b.locate("alice") is None


@pytest.mark.parametrize("name", ["n0", "a b"])
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "not-asked"])
async def test_g12_messages_of_nodes_without_a_directory_are_ignored_if_their_source_is_no_node(
    name: str, asked: bool
) -> None:
    """As an answer to an open question, as a late answer, and as a question."""
    async with attacked("asking://tests") as ((a, b), outsider), a.client("alice") as alice:
        assert await a.locate("bob") is None
        asking = a._node.peers
        assert asking is not None
        number = asking._last
        poll = Poll()
        if asked:
            asking._polls[number] = poll
        me = {"node": name, "incarnation": 0, "lease": 60.0, "wire_version": 1, "lanes": 64}
        question = {"me": me, "number": 1, "clients": ["alice"]}
        answer = {"me": me, "number": number, "held": {"alice": alice.epoch - 1}, "claiming": {}}
        forgeries = [own_event("$sys.question", question), own_event("$sys.answer", answer)]
        await outsider.write("n:n0", outsider.frame(*forgeries, partition="n:n0"))
        await fence([b], [a])
        assert a._node.outbox.known(name) is None
        assert poll.replies == {}


async def test_g12_frames_that_wait_for_another_are_bounded_in_memory() -> None:
    """Frames held back count with all that they take, not with their events alone."""
    async with attacked("memory://held", hold_back_size=PROMISED) as ((a, b), outsider):
        await fence([b], [a])
        notes = tuple(Note("x" * 20) for _ in range(100))
        frames = [
            outsider.frame(event(), session=8, incarnation=2, first=first, notes=notes) for first in range(10, 4_010, 2)
        ]
        came = a.stats().received_frames + len(frames)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for frame in frames:
                await outsider.write("all", frame)
            del frames, frame
            await until(lambda: a.stats().received_frames >= came, "all came")
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert held < 2 * PROMISED


async def test_g12_a_long_name_costs_no_more_than_its_bytes() -> None:
    """A topic of a million tokens, which no sender of ours has, is matched with nothing at once."""
    async with attacked("memory://long") as ((a, b), outsider):
        a.on("a.*.>")(inbox := Inbox())
        await a.ready()
        await fence([b], [a])
        await outsider.write("all", *[outsider.frame(event("a." * 1_000_000 + "a", target="*"))] * 5)
        await outsider.write("n:n0", outsider.frame(event(target="x" * 1_000_000), partition="n:n0"))
        with anyio.fail_after(DEADLINE):
            await fence([b], [a])
        assert len(inbox) == 0


async def test_g12_mutated_frames_stop_no_node(uri: str) -> None:
    """Frames of all kinds, broken and whole, come in by the broker; afterwards the node does its work."""
    async with attacked(uri) as ((a, b), outsider):
        await fence([b], [a])
        frames = list(Mutator(1).frames(600))
        for start in range(0, len(frames), 50):
            await outsider.write("n:n0", *frames[start : start + 50])
            await outsider.write("all", *frames[start : start + 50])
        await until(lambda: sum(a.stats().refused.values()) > 300, "they came")
        await fence([b], [a])
