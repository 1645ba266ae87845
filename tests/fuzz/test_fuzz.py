"""A short fuzz of what takes in bytes and text of others; ``python -m tests.fuzz`` is the long one."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import count
from multiprocessing import get_context
from typing import Any, Literal
from uuid import UUID

import anyio
import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventbus
from eventbus_core.backend import TransportURI
from eventbus_core.errors import ConfigurationError, EventBusError, EventDataError, InvalidName
from eventbus_core.model.event import Event, check_headers, encode_data
from eventbus_core.model.names import check_address, check_client, check_identifier, check_pattern, check_topic
from eventbus_core.model.topics import PatternIndex
from tests import strategies
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import FuzzError, Watch, decode, fuzz_codec, fuzz_node

FRAMES = 10_000
SEED = 20_250


def alone(function: Callable[..., Watch], *args: object) -> Watch:
    """Call *function* in a process of its own: what others allocate in this one would be taken for its doing."""
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        return executor.submit(function, *args).result()


def test_g12_mutated_frames_raise_nothing_but_frame_error() -> None:
    """The codec reads a frame or refuses it, and takes memory in proportion to it."""
    watch = alone(fuzz_codec, FRAMES, SEED)
    kinds = {"malformed", "truncated", "checksum", "version", "read", "no data", "unreadable data", "readable data"}
    assert watch.outcomes.keys() == kinds
    assert watch.outcomes["read"] > FRAMES // 10


@pytest.mark.parametrize("uri", ["memory://fuzz", "fuzz-asking://"])
def test_g12_mutated_frames_stop_no_node(uri: str) -> None:
    """A node takes in a frame or drops it, keeps little of it, and handles what comes after them all."""
    watch = alone(anyio.run, fuzz_node, uri, FRAMES // 4, SEED)
    assert watch.outcomes.keys() >= {"taken in", "malformed", "truncated", "checksum", "foreign", "left", "own event"}


def test_a_fuzz_can_fail() -> None:
    """What raises, or takes too much, is found."""
    frame = Mutator(SEED).frame()
    with pytest.raises(FuzzError, match="IndexError"):
        Watch().feed(lambda _: str([][0]), frame)
    tracemalloc.start()
    try:
        with pytest.raises(FuzzError, match="allocate"):
            Watch().feed(lambda _: str(len(bytes(1024 * 1024))), frame)
        with pytest.raises(FuzzError, match="1,024 delivered"):
            Watch().feed(lambda _: str(len(bytes(1024 * 1024))), frame, delivered=count(step=1024).__next__)
        Watch().feed(decode, frame)
    finally:
        tracemalloc.stop()


@attrs.define
class Order:
    id: int
    items: list[tuple[str, float]]
    when: datetime | None = None


class Colour(Enum):
    RED = "red"


TYPES: tuple[Any, ...] = (
    *(None, bool, int, float, str, bytes, list, dict, tuple, set, datetime, date, timedelta, Decimal, UUID, Any, Order),
    *(Colour, Literal[1, "a"], list[Order], dict[str, Order], dict[int, set[str]], tuple[int, str], frozenset[bytes]),
    *(int | str | None, msgspec.Raw, Event),
)


@given(st.sampled_from(TYPES), st.binary(max_size=80) | strategies.data.map(msgspec.msgpack.encode))
def test_g12_data_has_the_requested_type_or_is_refused(into: Any, raw: bytes) -> None:
    """Whatever bytes an event holds, and whatever type its handler wants, there is an object or an EventDataError."""
    event = Event("type", "@n1", "alice", "1-1", msgspec.Raw(raw))
    with suppress(EventDataError):
        event.decode(into)
    with suppress(EventDataError):
        _ = event.data
    repr(event)


@given(st.text() | st.text("a.*>/@#$-_ \n\0\ud800é", max_size=300))
def test_g12_any_text_is_a_name_or_refused(text: str) -> None:
    """A check returns the name, as a plain str, or raises InvalidName; a pattern that passes can be used."""
    for check in (check_client, check_address, check_topic, check_pattern, lambda name: check_identifier("node", name)):
        with suppress(InvalidName):
            assert check(text) == text
    with suppress(InvalidName):
        index: PatternIndex[int] = PatternIndex()
        index.add(check_pattern(text), 1)
        index.match(text)
        assert index.remove(text, 1)
        assert not index._root.branches


@given(
    st.text("ab*.>", max_size=255)
    | st.builds("://".join, st.tuples(st.sampled_from(["redis", "memory", "unix", "x"]), st.text(max_size=60)))
    | st.builds("redis://{}".format, st.text("ab:@/?#[]%0189&=+ \0\ud800", max_size=40))
)
def test_g12_any_text_is_a_uri_or_refused(text: str) -> None:
    """A URI is parsed, and can be shown, or a ConfigurationError says why not; so can one of a backend be refused."""
    with suppress(ConfigurationError):
        uri = TransportURI.parse(text)
        str(uri).encode()
        repr(uri).encode()
    with suppress(EventBusError):
        eventbus.connect(text)


class Odd:
    """Raises whatever one does with it."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")


huge = st.builds(pow, st.just(10), st.just(5000))  # it cannot even be shown
odd = st.builds(Odd) | huge | st.sampled_from((float("nan"), "\ud800", 2**64, -(2**63) - 1, {1, 2}, Colour.RED, Odd))
anything: st.SearchStrategy[Any] = st.recursive(
    strategies.scalars | odd,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strategies.scalars | huge, inner, max_size=3),
    max_leaves=8,
)


@given(anything)
def test_data_and_headers_of_any_kind_are_encoded_or_refused(data: Any) -> None:
    """Whatever objects an application hands over, they are encoded or refused with an error of ours."""
    for use in (lambda: encode_data(data, 1000), lambda: check_headers(data), lambda: check_headers({"name": data})):
        with suppress(EventBusError):
            use()
