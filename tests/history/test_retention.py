"""The option ``retain``: what it takes, which topics it names, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventbus
from eventbus import NamespaceMismatch, OptionError, Retention
from eventbus_core.model.retention import RetainedPatterns
from eventbus_core.model.topics import PatternIndex
from tests.support import fresh_namespace

TOKENS = ("a", "b", "c")
topics = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=4).map(".".join)
patterns = st.builds(
    lambda tokens, rest: ".".join([*tokens, *rest]),
    st.lists(st.sampled_from((*TOKENS, "*")), min_size=1, max_size=3),
    st.sampled_from(((), (">",))),
)
retentions = st.builds(
    Retention, st.integers(1, 10**6), st.integers(1, 1000).map(lambda n: n / 4 + 0.1), st.integers(1024, 2**40)
)


@given(st.dictionaries(patterns, retentions, max_size=4))
def test_the_text_of_patterns_gives_the_same_patterns(chosen: dict[str, Retention]) -> None:
    parsed = RetainedPatterns.parse(chosen)
    again = RetainedPatterns.parse(str(parsed))
    assert again.patterns == chosen
    assert list(again.patterns) == list(chosen)
    assert bool(again) == bool(chosen)


@given(st.lists(patterns, max_size=3, unique=True), patterns, topics)
def test_a_pattern_overlaps_if_a_topic_matches_both(chosen: list[str], pattern: str, topic: str) -> None:
    retained = RetainedPatterns.parse(dict.fromkeys(chosen, Retention()))
    index: PatternIndex[int] = PatternIndex()
    index.add(pattern, 1)
    if retained.of(topic) is not None and index.match(topic):
        assert retained.overlap(pattern)


@given(patterns, patterns)
def test_patterns_that_overlap_have_a_topic_in_common(first: str, second: str) -> None:
    """Built from the two, token by token: where both are wildcards, any token does."""
    if not RetainedPatterns.parse({first: Retention()}).overlap(second):
        return
    ours, theirs = first.split("."), second.split(".")
    longest = max(len(ours), len(theirs))
    tokens = []
    for place in range(longest):
        pair = [tokens_[place] if place < len(tokens_) else ">" for tokens_ in (ours, theirs)]
        tokens.append(next((token for token in pair if token not in ("*", ">")), "a"))
    topic = ".".join(tokens)
    for pattern in (first, second):
        index: PatternIndex[int] = PatternIndex()
        index.add(pattern, 1)
        assert index.match(topic), f"{topic} does not match {pattern}"


def test_the_first_pattern_that_matches_counts() -> None:
    retained = RetainedPatterns.parse("a.b=1/600/1024,a.*=2/600/1024,>=3/600/1024")
    assert [kept and kept.events for kept in map(retained.of, ("a.b", "a.c", "b", "$sys.x"))] == [1, 2, 3, None]


@pytest.mark.parametrize(
    "value",
    ["chat", "chat.>=1000", "chat.>=0/600/1024", {"chat": 7}, {"chat": {"events": 1}}, ["chat"], 3, {1: Retention()}],
)
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises((OptionError, eventbus.InvalidName)):
        eventbus.connect("memory://", retain=value)


@pytest.mark.parametrize(
    "bounds",
    [
        *({"events": 0}, {"events": "x"}, {"events": 1.5}, {"events": True}, {"events": None}),
        *({"seconds": 0}, {"seconds": 1e9}, {"seconds": float("nan")}, {"seconds": "60"}, {"bytes": 10}),
    ],
)
def test_a_retention_has_bounds(bounds: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=f"Retention.{next(iter(bounds))}' is .*; it must be a "):
        Retention(**bounds)  # type: ignore[arg-type]


async def test_all_nodes_retain_the_same(uri: str) -> None:
    namespace = fresh_namespace()
    retain = {"chat.>": Retention(events=5)}
    async with eventbus.connect(uri, namespace=namespace, retain=retain):
        async with eventbus.connect(uri, namespace=namespace, retain="chat.>=5/600/8388608"):
            pass
        with pytest.raises(NamespaceMismatch, match=r"'retain=chat.>=5/600/8388608', this node has ''; .* retain="):
            await eventbus.connect(uri, namespace=namespace).open()
