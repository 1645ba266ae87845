"""
Topics: the lane that carries a topic, and the receivers that subscribe to it.

A pattern is a topic in which the token ``*`` matches any one token and a last ``>`` one or
more (as in NATS subjects). A wildcard as first token does not match the bus's own topics (as
in MQTT for ``$SYS``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar
from zlib import crc32

import attrs

from eventbus_core.model.names import MAX_NAME, MAX_TOPICS, RESERVED

R = TypeVar("R")

SHARES = "$\x1fhistory."
"""
Before a retained topic: the topic by which its events travel from the history to their receivers.

No pattern of an application holds a character that is not printable.
"""
INBOX = "$\x1finbox."
"""Before a retained client: the topic of what is sent to it; likewise."""
MAX_SUBJECT = MAX_NAME + len(SHARES) + len(INBOX)
ONE = "*"
REST = ">"


def lane_of(topic: str, lanes: int) -> int:
    """Return the lane of *topic*, the same in every process: its CRC-32 modulo *lanes*."""
    return crc32(topic.encode()) % lanes


def lanes_of(pattern: str, lanes: int) -> range:
    """Return the lanes that can carry topics that match *pattern*: one, or all if it has a wildcard."""
    if has_wildcard(pattern):
        return range(lanes)
    lane = lane_of(pattern, lanes)
    return range(lane, lane + 1)


def besides(topic: str, earlier: Sequence[str]) -> str:
    """Return the key of :meth:`PatternIndex.match` for the receivers of *topic* that *earlier* topics do not have."""
    return " ".join([topic, *earlier])


def has_wildcard(pattern: str) -> bool:
    """Return whether *pattern* can match more than one topic."""
    return ONE in pattern or REST in pattern


@attrs.define
class _Branch(Generic[R]):
    """One level of the tree of patterns; its receivers, each with its place in the order of arrival."""

    branches: dict[str, _Branch[R]] = attrs.field(factory=dict)
    receivers: dict[R, int] = attrs.field(factory=dict)


class PatternIndex(Generic[R]):
    """
    Patterns and their receivers.

    A tree by tokens: the cost of a match depends on the depth of the topic, not on the number of
    patterns. Answers are cached until the index changes, at most *memory* of them.
    """

    def __init__(self, memory: int = 4096) -> None:
        self._root: _Branch[R] = _Branch()
        self._arrivals = 0
        self._answers: dict[str, tuple[R, ...]] = {}
        self._memory = memory

    def add(self, pattern: str, receiver: R) -> bool:
        """Subscribe *receiver* to *pattern*; return whether the subscription is new."""
        branch = self._root
        for token in pattern.split("."):
            branch = branch.branches.setdefault(token, _Branch())
        if receiver in branch.receivers:
            return False
        self._arrivals += 1
        branch.receivers[receiver] = self._arrivals
        self._answers.clear()
        return True

    def remove(self, pattern: str, receiver: R) -> bool:
        """Undo :meth:`add`; return whether *receiver* was subscribed."""
        path = [(self._root, "")]
        for token in pattern.split("."):
            child = path[-1][0].branches.get(token)
            if child is None:
                return False
            path.append((child, token))
        if path[-1][0].receivers.pop(receiver, None) is None:
            return False
        for (parent, _), (child, token) in zip(path[-2::-1], path[:0:-1], strict=True):
            if child.receivers or child.branches:
                break
            del parent.branches[token]
        self._answers.clear()
        return True

    def match(self, topic: str) -> tuple[R, ...]:
        """
        Return each receiver of *topic* once, the earliest subscription first.

        After the topic, earlier ones may follow: receivers of these are left out. See :func:`besides`.
        """
        answer = self._answers.get(topic)
        if answer is None:
            first, *earlier = topic.split(" ")
            if len(first) > MAX_SUBJECT or len(earlier) >= MAX_TOPICS:
                return ()  # no sender of this library uses such names; each token would cost time
            if len(self._answers) >= self._memory:
                self._answers.clear()
            answer = self._search(first)
            if earlier:
                served = {receiver for other in earlier for receiver in self.match(other)}
                answer = tuple(receiver for receiver in answer if receiver not in served)
            self._answers[topic] = answer
        return answer

    def _search(self, topic: str) -> tuple[R, ...]:
        found: dict[R, int] = {}
        level = [self._root]
        tokens = topic.split(".")
        if topic.startswith(RESERVED):  # the bus's own topics need this first token by name
            level = [branch] if (branch := self._root.branches.get(tokens.pop(0))) else []
        for token in tokens:
            below = [branch.branches for branch in level]
            for branches in below:
                if rest := branches.get(REST):
                    _collect(rest, found)
            level = [child for branches in below for step in (token, ONE) if (child := branches.get(step))]
        for branch in level:
            _collect(branch, found)
        return tuple(sorted(found, key=found.__getitem__))


def _collect(branch: _Branch[R], found: dict[R, int]) -> None:
    for receiver, order in branch.receivers.items():
        found[receiver] = min(order, found.get(receiver, order))
