"""
Topics: which lane carries one, and who is subscribed to it.

A pattern is a topic in which the token ``*`` stands for any one token and a last ``>`` for
one or more (the rule of NATS subjects). A wildcard in the first place stands for no topic of
the bus' own (the rule of MQTT for ``$SYS``).
"""

from __future__ import annotations

from typing import Generic, TypeVar
from zlib import crc32

import attrs

from eventbus_core.names import MAX_NAME, RESERVED

R = TypeVar("R")

ONE = "*"
REST = ">"


def lane_of(topic: str, lanes: int) -> int:
    """Return the lane of *topic*, the same in every process: its CRC-32 modulo *lanes*."""
    return crc32(topic.encode()) % lanes


def lanes_of(pattern: str, lanes: int) -> range:
    """Return the lanes that can carry what matches *pattern*: one, or all if it has a wildcard."""
    if has_wildcard(pattern):
        return range(lanes)
    lane = lane_of(pattern, lanes)
    return range(lane, lane + 1)


def has_wildcard(pattern: str) -> bool:
    """Return whether *pattern* stands for more than one topic."""
    return ONE in pattern or REST in pattern


@attrs.define
class _Branch(Generic[R]):
    """One level of the tree of patterns; receivers with the order in which they came."""

    branches: dict[str, _Branch[R]] = attrs.field(factory=dict)
    receivers: dict[R, int] = attrs.field(factory=dict)


class PatternIndex(Generic[R]):
    """
    Patterns and their receivers.

    A tree by tokens, so the cost of a match depends on the topic's depth and not on the number
    of patterns. Answers are remembered until the index changes, at most *memory* of them.
    """

    def __init__(self, memory: int = 4096) -> None:
        self._root: _Branch[R] = _Branch()
        self._arrivals = 0
        self._answers: dict[str, tuple[R, ...]] = {}
        self._memory = memory

    def add(self, pattern: str, receiver: R) -> bool:
        """Subscribe *receiver* to *pattern*; return whether it was not before."""
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
        """Undo :meth:`add`; return whether there was something to undo."""
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
        """Return each receiver of *topic* once, the earliest subscription first."""
        answer = self._answers.get(topic)
        if answer is None:
            if len(topic) > MAX_NAME:  # no sender of ours has such names, and each token would take its time
                return ()
            if len(self._answers) >= self._memory:
                self._answers.clear()
            answer = self._answers[topic] = self._search(topic)
        return answer

    def _search(self, topic: str) -> tuple[R, ...]:
        found: dict[R, int] = {}
        level = [self._root]
        tokens = topic.split(".")
        if topic.startswith(RESERVED):  # the bus' own are for those who ask for them by name
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
