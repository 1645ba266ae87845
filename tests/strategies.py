"""What the property-based tests draw: names, data, events and frames."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from eventbus_core.model.event import Event, encode_event
from eventbus_core.model.names import MAX_IDENTIFIER, MAX_NAME
from eventbus_core.session.wire import Header, Note, SessionPosition, pack

LARGEST = 2**62
"""The largest number that a frame may carry."""


def _printable(*excluded: str) -> st.SearchStrategy[str]:
    return st.characters(exclude_categories=["C", "Z"], exclude_characters="".join(excluded))


def _fits(name: str) -> bool:
    return name.isprintable() and len(name.encode()) <= MAX_NAME


identifiers = st.from_regex(r"[A-Za-z0-9_-]{1,8}(\.[A-Za-z0-9_-]{1,8}){0,3}", fullmatch=True).filter(
    lambda name: len(name) <= MAX_IDENTIFIER
)

client_parts = st.text(_printable("/", "*", ">"), min_size=1, max_size=12)
clients = (
    st.lists(client_parts, min_size=1, max_size=2)
    .map("/".join)
    .filter(lambda name: name[0] not in "@#$" and _fits(name))
)

tokens = st.text(_printable(".", "*", ">"), min_size=1, max_size=8)
topics = (
    st.lists(tokens, min_size=1, max_size=5)
    .map(".".join)
    .filter(lambda topic: not topic.startswith("$") and _fits(topic))
)
patterns = (
    st.tuples(st.lists(tokens | st.just("*"), max_size=4), st.sampled_from(["*", ">"]) | tokens)
    .map(lambda parts: ".".join([*parts[0], parts[1]]))
    .filter(_fits)
)

# Few letters, so that patterns match, share branches and are drawn twice.
crowded_topics = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(".".join)
crowded_patterns = st.tuples(st.lists(st.sampled_from("ab*"), max_size=3), st.sampled_from("ab*>")).map(
    lambda parts: ".".join([*parts[0], parts[1]])
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
)
data: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcdé", max_size=4) | st.integers(-100, 100), inner, max_size=4)
    ),
    max_leaves=12,
)
"""What MessagePack returns as it was given."""

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
events: st.SearchStrategy[Event] = st.builds(
    Event,
    type=words,
    source=words,
    target=words,
    id=words,
    raw=data.map(lambda value: msgspec.Raw(msgspec.msgpack.encode(value))),
    headers=st.none() | st.dictionaries(words, words, max_size=3),
    epoch=st.integers(0, LARGEST),
    hops=st.integers(0, 3),
    origin=st.none() | words,
    reply_to=st.none() | words,
    answers=st.none() | words,
    expires=st.none() | st.floats(0, 2**40),
)

numbers = st.integers(0, LARGEST)
notes = st.builds(
    Note,
    kind=words,
    session=numbers,
    incarnation=numbers,
    first=numbers,
    last=numbers,
    positions=st.lists(
        st.builds(SessionPosition, partition=words, session=numbers, first=numbers, position=numbers), max_size=2
    ).map(tuple),
)


def headers(count: int) -> st.SearchStrategy[Header]:
    """Headers of frames of *count* events."""
    return st.builds(
        Header,
        namespace=words,
        node=words,
        incarnation=numbers,
        session=numbers,
        partition=words,
        first=numbers,
        count=st.just(count),
        position=numbers,
        notes=st.lists(notes, max_size=3),
    )


@st.composite
def batches(draw: st.DrawFn) -> tuple[Header, list[Event]]:
    """A frame's header and events, before they are packed."""
    drawn = draw(st.lists(events, max_size=4))
    return draw(headers(len(drawn))), drawn


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Frames that are in order."""
    header, drawn = draw(batches())
    return pack(header, [encode_event(event) for event in drawn])
