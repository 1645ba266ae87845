"""Publishers, and readers that come and go with their positions, held against the history itself."""

from __future__ import annotations

from typing import Any

import anyio
import attrs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventbus import Bus, Client, Gap, Resumed, Retention
from eventbus_core.model.tokens import Token
from tests.support import buses, take

TOPIC = "chat.room"
KEPT = 12

publish = st.tuples(st.just("publish"), st.integers(0, 2), st.integers(1, 6))
come = st.tuples(st.just("come"), st.integers(0, 2), st.integers(0, 3))
leave = st.tuples(st.just("leave"), st.integers(0, 2), st.integers(0, 3))
operations = st.lists(publish | publish | come | leave, max_size=25)


@attrs.define
class Visitor:
    """A reader, on whatever node: its position, and the offsets that it has or knows to be gone."""

    token: str = ""
    reached: int = -1
    client: Client | None = None


def offset_of(token: str | None) -> int:
    parsed = Token.parse(token or "", f"#{TOPIC}")
    assert parsed is not None, token
    return parsed.mark.offset


async def run(uri: str, script: list[tuple[str, int, int]]) -> None:
    written: dict[int, int] = {}
    made = 0
    async with buses(uri, 3, retain={"chat.>": Retention(events=KEPT)}) as nodes, anyio.create_task_group():
        visitors = [Visitor() for _ in range(4)]

        async def note(bus: Bus) -> None:
            for event in await bus.history(TOPIC):
                offset = offset_of(event.position)
                assert written.setdefault(offset, event.data) == event.data
            assert sorted(written) == list(range(1, made + 1))

        async def catch_up(visitor: Visitor) -> None:
            if visitor.client is not None and visitor.reached < made:
                for event in await take(visitor.client, made - visitor.reached):
                    visitor.reached += 1
                    visitor.token = event.position or ""
                    assert (offset_of(visitor.token), event.data) == (visitor.reached, written[visitor.reached])

        async def come(visitor: Visitor, bus: Bus, name: str) -> None:
            visitor.client = bus.client(name)
            await visitor.client.open()
            answer = await visitor.client.subscribe(TOPIC, since=visitor.token)
            assert offset_of(answer.position) == made
            if not visitor.token:
                assert answer == Resumed(0, answer.position or "")
                visitor.reached, visitor.token = made, answer.position or ""
                return
            gone = max(0, made - KEPT - visitor.reached)
            if isinstance(answer, Gap):
                assert (answer.reason, answer.missed) == ("trimmed", gone)
                # No gap of zero events unless the entry of the position, the proof, is gone itself.
                assert gone or made - visitor.reached >= 1
                visitor.reached += gone
            else:
                assert (gone, answer.events) == (0, made - visitor.reached)
            await catch_up(visitor)

        for kind, node, number in script:
            if kind == "publish":
                for _ in range(number):
                    await nodes[node].publish(TOPIC, made)
                    made += 1
                await nodes[node].flush()
                await note(nodes[node])
                for visitor in visitors:
                    await catch_up(visitor)
            else:
                visitor = visitors[number]
                if kind == "come" and visitor.client is None:
                    await come(visitor, nodes[node], f"v{number}")
                elif kind == "leave" and visitor.client is not None:
                    await visitor.client.aclose()
                    visitor.client = None


@settings(max_examples=25)
@given(operations)
@example([("come", 0, 0), ("come", 0, 1), ("leave", 0, 0), ("come", 0, 0)])  # a stream that has no event yet
@example([("come", 0, 0), ("leave", 0, 0), ("publish", 1, 12), ("come", 0, 0), ("publish", 0, 1)])  # an old feed
def test_g13_readers_get_each_event_once_or_learn_that_it_is_gone(uri: str, script: Any) -> None:
    anyio.run(run, uri, script)
