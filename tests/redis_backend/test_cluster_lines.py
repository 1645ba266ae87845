"""What the answers on a reading line mean, whatever overtakes what."""

from __future__ import annotations

from collections import deque
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse, ResponseError

from eventbus_redis.cluster.line_requests import Kind, LineRequests

NAMES = (b"a", b"b")
STEPS = st.tuples(
    st.sampled_from(["join", "leave", "probe", "serve", "refuse", "end", "deliver"]), st.sampled_from(NAMES)
)


def push(*items: Any) -> Any:
    """Return a push as the parser does."""
    reader = hiredis.Reader()
    packed: bytes = hiredis.pack_command(items)
    reader.feed(b">" + packed[1:])
    return reader.gets()


class World:
    """A line and its server: what each believes of the subscriptions."""

    def __init__(self) -> None:
        self.requests = LineRequests()
        self.believed: set[bytes] = set()
        self.subscribed: set[bytes] = set()
        self.probes = 0
        self._sent: deque[tuple[str, bytes]] = deque()
        self._replies: deque[Any] = deque()

    def step(self, do: str, name: bytes) -> None:
        if do in ("join", "leave", "probe"):
            getattr(self.requests, do)(name)
            if do == "leave":
                self.believed.discard(name)
            self._sent.append((do, name))
        elif do in ("serve", "refuse") and self._sent:
            self._serve(*self._sent.popleft(), refused=do == "refuse")
        elif do == "end" and name in self.subscribed:
            self.subscribed.discard(name)
            self._replies.append(push(b"sunsubscribe", name, b"0"))
        elif do == "deliver" and self._replies:
            self._deliver(self._replies.popleft())

    def finish(self) -> None:
        while self._sent or self._replies:
            self.step("serve", NAMES[0])
            self.step("deliver", NAMES[0])

    def _serve(self, do: str, name: bytes, *, refused: bool) -> None:
        if do == "probe" or refused:
            self._replies.append(ResponseError("MOVED 1 a:1") if refused else None)
        else:
            (self.subscribed.add if do == "join" else self.subscribed.discard)(name)
            self._replies.append(push(b"ssubscribe" if do == "join" else b"sunsubscribe", name, b"0"))
        if do == "leave":
            self._replies.append({b"server": b"redis"})

    def _deliver(self, reply: Any) -> None:
        answer = self.requests.take(reply)
        if answer is None:
            return
        if answer.kind is Kind.PROBE:
            self.probes += 1
        elif answer.kind is Kind.JOIN and answer.error is None:
            assert ("leave", answer.name) not in self._sent, "it is not joined for good"
            self.believed.add(answer.name)
        elif answer.kind is Kind.ENDED:
            self.believed.discard(answer.name)


@given(st.lists(STEPS, max_size=40))
def test_what_the_line_believes_is_what_the_server_has(steps: list[tuple[str, bytes]]) -> None:
    world = World()
    for do, name in steps:
        world.step(do, name)
    world.finish()
    assert world.believed <= world.subscribed
    if "refuse" not in [do for do, _ in steps]:
        assert world.believed == world.subscribed
    assert world.probes == [do for do, _ in steps].count("probe")


def test_an_answer_without_a_request_is_an_error() -> None:
    with pytest.raises(InvalidResponse, match="answers nothing"):
        LineRequests().take(ResponseError("ERR x"))
