from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventbus_core.model.topics import PatternIndex, has_wildcard, lane_of, lanes_of
from tests import strategies

# The lanes of a live namespace: they may never change, or nodes of two versions miss each other.
LANES_OF_64 = {
    "order.created": 61,
    "order.paid": 16,
    "room.42": 44,
    "a": 3,
    "a.b.c.d.e": 48,
    "größe.δ": 55,
    "😀": 4,
    "x" * 255: 25,
}


def _as_regex(pattern: str) -> re.Pattern[str]:
    """The rule of DESIGN section 2, put another way."""
    words = {"*": r"[^.]+", ">": r"[^.]+(\.[^.]+)*"}
    return re.compile(r"\.".join(words.get(token, re.escape(token)) for token in pattern.split(".")))


def _matches(pattern: str, topic: str) -> bool:
    index: PatternIndex[str] = PatternIndex()
    index.add(pattern, "receiver")
    return index.match(topic) == ("receiver",)


@given(strategies.crowded_patterns, strategies.crowded_topics)
@settings(max_examples=300)
@example("a.>", "a")
@example(">", "a")
@example("a.*", "a.b.c")
def test_g7_a_pattern_matches_by_the_rule(pattern: str, topic: str) -> None:
    """A pattern matches exactly the topics that its regular expression does."""
    assert _matches(pattern, topic) == bool(_as_regex(pattern).fullmatch(topic))


@given(strategies.patterns, strategies.topics)
def test_g7_a_pattern_of_any_characters_matches_by_the_rule(pattern: str, topic: str) -> None:
    """Characters that mean something elsewhere mean nothing in a topic."""
    assert _matches(pattern, topic) == bool(_as_regex(pattern).fullmatch(topic))
    assert _matches(topic, topic)


class NaiveIndex:
    """Subscriptions in a list, all of them looked at for each match."""

    def __init__(self) -> None:
        self.subscriptions: list[tuple[str, int]] = []

    def add(self, pattern: str, receiver: int) -> bool:
        if (pattern, receiver) in self.subscriptions:
            return False
        self.subscriptions.append((pattern, receiver))
        return True

    def remove(self, pattern: str, receiver: int) -> bool:
        if (pattern, receiver) not in self.subscriptions:
            return False
        self.subscriptions.remove((pattern, receiver))
        return True

    def match(self, topic: str) -> tuple[int, ...]:
        found = [receiver for pattern, receiver in self.subscriptions if _as_regex(pattern).fullmatch(topic)]
        return tuple(dict.fromkeys(found))


receivers = st.integers(0, 3)
steps = st.lists(
    st.tuples(st.sampled_from(["add", "add", "remove"]), strategies.crowded_patterns, receivers), max_size=25
)


@given(steps, st.sampled_from([0, 1, 3, 4096]))
@settings(max_examples=200)
def test_g7_the_index_answers_as_a_plain_list_of_subscriptions_would(
    steps: list[tuple[str, str, int]], memory: int
) -> None:
    """After any subscriptions and removals, doubled ones too, each receiver of a topic is found once and in order."""
    index: PatternIndex[int] = PatternIndex(memory)
    naive = NaiveIndex()
    for step, name, receiver in steps:
        assert getattr(index, step)(name, receiver) == getattr(naive, step)(name, receiver)
        for topic in ("a", "b", "a.b", "b.a", "a.a.b", "b.b.b.a"):
            assert index.match(topic) == naive.match(topic)


@given(st.lists(st.tuples(strategies.crowded_patterns, receivers), max_size=30), st.randoms(use_true_random=False))
def test_g11_an_index_from_which_all_was_removed_holds_nothing(
    subscriptions: list[tuple[str, int]], random: object
) -> None:
    """Removing every subscription, in any order, leaves no branch of the tree behind."""
    index: PatternIndex[int] = PatternIndex()
    for pattern, receiver in subscriptions:
        index.add(pattern, receiver)
    left = list(dict.fromkeys(subscriptions))
    random.shuffle(left)  # type: ignore[attr-defined]
    for pattern, receiver in left:
        assert index.remove(pattern, receiver)
    assert not index._root.branches
    assert not index._root.receivers
    assert index.match("a.b") == ()


def test_g11_answers_are_remembered_up_to_a_bound() -> None:
    index: PatternIndex[int] = PatternIndex(memory=10)
    index.add(">", 1)
    for number in range(1000):
        assert index.match(f"topic.{number}") == (1,)
        assert len(index._answers) <= 10


@given(strategies.topics, st.integers(1, 65_536))
def test_a_topic_has_one_of_the_lanes(topic: str, lanes: int) -> None:
    """The lane of a topic is one of those that there are."""
    assert lane_of(topic, lanes) in range(lanes)


@given(strategies.crowded_patterns, strategies.crowded_topics, st.integers(1, 100))
def test_g7_a_subscriber_listens_to_the_lane_of_every_topic_that_its_pattern_matches(
    pattern: str, topic: str, lanes: int
) -> None:
    """A pattern's lanes hold the lane of each topic that it matches, and are one alone without a wildcard."""
    if _as_regex(pattern).fullmatch(topic):
        assert lane_of(topic, lanes) in lanes_of(pattern, lanes)
    assert len(lanes_of(pattern, lanes)) == (lanes if has_wildcard(pattern) else 1)


@pytest.mark.parametrize("topic", LANES_OF_64)
def test_lanes_are_those_of_the_nodes_in_service(topic: str) -> None:
    assert lane_of(topic, 64) == LANES_OF_64[topic]


@pytest.mark.parametrize("seed", ["0", "12345"])
def test_lanes_are_the_same_in_every_process(seed: str) -> None:
    program = (
        "import sys; from eventbus_core.model.topics import lane_of\n"
        "for topic in sys.stdin.buffer.read().decode().split('\\0'): print(lane_of(topic, 64))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program],
        input="\0".join(LANES_OF_64).encode(),
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    assert [int(line) for line in printed.split()] == list(LANES_OF_64.values())


def test_lanes_are_used_evenly() -> None:
    used = [0] * 64
    for number in range(6400):
        used[lane_of(f"room.{number}", 64)] += 1
    assert min(used) > 50
    assert max(used) < 200
