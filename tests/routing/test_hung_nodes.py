"""A node that hangs: it answers nothing, but its lease lasts. Senders must not wait for it again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from eventbus import Bus, TransportUnavailable, connect
from eventbus_core.backend import Frame
from tests.support import DEADLINE, Inbox, buses, fresh_namespace, tasks, until

PATIENCE = 0.3
OPTIONS: dict[str, Any] = {
    "slow_consumer_timeout": PATIENCE,
    "outbox_size": 4096,
    "receive_budget": 4096,
    "lease": 10 * DEADLINE,
}
BODY = "x" * 100


@contextmanager
def hung(bus: Bus) -> Iterator[None]:
    """Have *bus* read nothing in the block, as a process does that is stopped; what arrives is read afterwards."""
    receiver, missed = bus._node.receiver, list[Frame]()
    on_frame = receiver._on_frame
    receiver._on_frame = missed.append  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        receiver._on_frame = on_frame  # type: ignore[method-assign]
        for frame in missed:
            on_frame(frame)


async def granted(sender: Bus, receiver: Bus) -> None:
    """Return once *receiver* has told *sender* how much it may send: before, that is much more."""
    queue = sender._node.outbox.known(receiver.node)
    assert queue is not None
    await until(lambda: bool(queue.session._granted))


async def accepted(bus: Bus, target: str) -> bool:
    """Send to *target*; return whether that was accepted."""
    try:
        await bus.send(target, "n", BODY)
    except TransportUnavailable:
        return False
    return True


async def test_one_hung_node_holds_up_senders_to_others_once(uri: str) -> None:
    """A task that sends to all clients in turn waits for the hung node once; later that node gets everything, too."""
    async with (
        buses(uri, 3, **OPTIONS) as (a, b, c),
        b.client("well", handler=(well := Inbox())),
        c.client("hung", handler=(late := Inbox())),
    ):
        for target in ("well", "hung"):
            await a.send(target, "n", 0)
        await granted(a, b)
        await granted(a, c)
        with hung(c):
            waited = 0
            for number in range(1, 2000):
                await a.send("well", "n", number)
                before = a.stats().waits
                await a.send("hung", "n", number)
                waited += a.stats().waits - before
            assert 1 <= waited <= 2  # once for the node, and perhaps once for the writer, as with any node
            await well.got(2000)
        await late.got(2000)
        assert late.data == well.data == list(range(2000))
        queue = a._node.outbox.known(c.node)
        await until(lambda: queue is not None and queue.limit == OPTIONS["outbox_size"], "the usual bound holds again")


async def test_as_much_waits_for_a_hung_node_as_for_a_slow_consumer(uri: str) -> None:
    """Beyond ``mailbox_size`` each send raises at once, also those that wait already, and none of it is lost."""
    async with (
        buses(uri, 2, mailbox_size=8192, **OPTIONS) as (a, b),
        b.client("hung", handler=(late := Inbox())),
        tasks() as group,
    ):
        await a.send("hung", "n", BODY)
        await granted(a, b)
        with hung(b):
            fates: list[bool] = []

            async def send() -> None:
                fates.extend([await accepted(a, "hung") for _ in range(20)])

            for _ in range(20):
                group.start_soon(send)
            await until(lambda: len(fates) == 400, "no send waits")
            queue = a._node.outbox.known(b.node)
            assert queue is not None
            assert 8192 <= queue.size < 8192 + 200
            with pytest.raises(TransportUnavailable, match=rf"node '{b.node}' has not answered for [\d.]+ s, .* bytes"):
                await a.send("hung", "n", BODY)
        await late.got(1 + sum(fates))
        assert await accepted(a, "hung")


async def test_a_slow_node_that_answers_is_waited_for(uri: str) -> None:
    """A node whose consumers take nothing is no hung node: senders wait for room, as long as the option says."""
    gate = anyio.Event()

    async def stuck(_event: object) -> None:
        await gate.wait()

    slow = OPTIONS | {"slow_consumer_timeout": 10 * DEADLINE}
    async with (
        connect(uri, namespace=(name := fresh_namespace()), **OPTIONS) as a,
        buses(uri, 1, namespace=name, **slow) as (b,),
        b.client("slow", handler=stuck),
        tasks() as group,
    ):
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(200):
                await a.send("slow", "n", BODY)
                sent += 1

        group.start_soon(send)
        await until(lambda: a.stats().waits > 0, "there is no room")
        await anyio.sleep(4 * PATIENCE)
        session = a._node.outbox.known(b.node).session  # type: ignore[union-attr]
        await until(lambda: session.silence < PATIENCE, "it has answered lately")
        gate.set()
        await until(lambda: sent == 200, "all were accepted")
