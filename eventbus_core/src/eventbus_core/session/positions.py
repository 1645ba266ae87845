"""The question "where are your sessions to these partitions?", which a receiver asks once it has joined them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from eventbus_core.backend import Node
from eventbus_core.session.protocol import MAX_ASKED, WHERE, WHERE_PAUSES
from eventbus_core.session.wire import Header, Note, SessionPosition

MAX_AWAY: Final = 100_000
LONGEST_TICK: Final = 0.05
"""Seconds that count at most from one :meth:`Positions.tend` to the next: answers wait while the event loop is busy."""
PAUSE_PER_NODE: Final = 0.002
"""Seconds that are added to a pause for each node whose answer is waited for: it takes time to read them all."""
NO_INCARNATION: Final = -1


class Question:
    """
    One question to many nodes, and those that have not answered it.

    Attributes:
        number: of the question; the answers name it.
        partitions: those asked about which this node has not left since.
        waiting: the nodes whose answers are waited for, and the incarnation in which each was alive at our join.
        silent: the nodes that did not answer, likewise.
        asked: how often.
        ask_at: when to ask again; ``None`` until the next :meth:`Positions.tend`.
    """

    __slots__ = ("ask_at", "asked", "number", "partitions", "silent", "waiting")

    def __init__(self, number: int, partitions: Iterable[str], nodes: dict[str, int]) -> None:
        self.number = number
        self.partitions = dict.fromkeys(partitions)
        self.waiting = nodes
        self.silent: dict[str, int] = {}
        self.asked = 1
        self.ask_at: float | None = None

    def listed(self, node: str, partition: str) -> int:
        """Return the incarnation in which *node*, which has not answered, was alive when we joined *partition*."""
        if partition not in self.partitions:
            return NO_INCARNATION
        return self.waiting.get(node, self.silent.get(node, NO_INCARNATION))

    def answered(self, node: str) -> None:
        """Note that *node* has answered."""
        self.silent.pop(node, None)
        if self.waiting.pop(node, None) is not None:
            self.ask_at = None  # while answers come, none counts as lost

    def restart(self) -> None:
        """Ask as often as at first, from now on."""
        self.asked, self.ask_at = 1, None

    def asked_again(self) -> None:
        """Note that it was asked once more."""
        self.asked += 1

    def wait_until(self, time: float) -> None:
        """Ask again at *time*, unless answers come."""
        self.ask_at = time

    def give_up(self, node: str) -> None:
        """Wait no longer for *node*."""
        if node in self.waiting:
            self.silent[node] = self.waiting.pop(node)


class Positions:
    """
    Finds out which number comes next in each sender's sessions to the partitions that this node has joined.

    A node that joins partitions asks all nodes about all of them at once. Each answers with the positions of those
    sessions in which it ever sent an event. A session that is heard of later and was not among them has begun after
    the question, so its first number is 1. This is how a receiver notices that the very first frame of a session is
    lost. A node that has answered leaves no trace here.

    Attributes:
        away: the nodes that were forgotten and have not returned: the last join before, and their incarnation.
    """

    def __init__(self, node: str, ask: Callable[[str | None, Note], None]) -> None:
        """*ask* sends a question to the node that is named, or else to all."""
        self.away: dict[str, tuple[int, int]] = {}
        self._node = node
        self._ask = ask
        self._on_answered: Callable[[], None] = lambda: None
        self._questions: dict[int, Question] = {}
        """By number: those that some node has not answered."""
        self._last_question = 0
        self._joins: dict[str, int] = {}
        """Per joined partition: the number of our join; each join gets a larger one."""
        self._last_join = 0
        self._repairs: list[int] = []
        """The numbers of the questions after the last interruption."""
        self._clock = self._tended_at = 0.0

    def when_answered(self, callback: Callable[[], None]) -> None:
        """Call *callback* whenever a question is answered by all, or given up."""
        self._on_answered = callback

    def joined(self, partitions: Sequence[str], nodes: Iterable[Node]) -> None:
        """Ask all live *nodes* where their sessions to *partitions* are."""
        for partition in partitions:
            if partition not in self._joins:
                self._last_join += 1
                self._joins[partition] = self._last_join
        others = {node.id: node.incarnation for node in nodes if node.id != self._node}
        if others:
            self._ask_all(partitions, others)

    def left(self, partition: str) -> None:
        """Ask nothing more about *partition*."""
        self._joins.pop(partition, None)
        for question in self._questions.values():
            question.partitions.pop(partition, None)
        self._close_answered()

    def join_number(self, partition: str) -> int:
        """Return the number of our join of *partition*, which tells this time in it from those before; 0 if outside."""
        return self._joins.get(partition, 0)

    def forget(self, node: str, incarnation: int) -> None:
        """Ask nothing more of *node*, which is gone as far as we know; it was heard last in *incarnation*."""
        self.away.setdefault(node, (self._last_join, incarnation))
        if len(self.away) > MAX_AWAY:
            del self.away[next(iter(self.away))]
        self.unreachable(node)

    def unreachable(self, node: str) -> None:
        """Expect no answers from *node*: the transport says that it does not listen."""
        for question in self._questions.values():
            question.give_up(node)
        self._close_answered()

    def is_known(self, partition: str) -> bool:
        """Return whether no answer about *partition* is waited for: all have come, or were asked for often enough."""
        return not any(question.waiting and partition in question.partitions for question in self._questions.values())

    def answered(self, node: str, number: int) -> None:
        """Note that *node* has answered question *number*, and that its positions are taken in."""
        question = self._questions.get(number)
        if question is not None:
            question.answered(node)
            if not question.waiting:
                self._close_answered()

    def ask_again(self, nodes: Iterable[str], partitions: Collection[str] | None = None) -> None:
        """
        Ask all nodes about *partitions* (``None``: about all), since frames may be lost.

        Answers are expected from *nodes*.
        """
        former = [question for number in self._repairs if (question := self._questions.pop(number, None))]
        open_still = {partition for question in former for partition in question.partitions}
        for question in self._questions.values():
            question.restart()
        asked = [each for each in self._joins if partitions is None or each in partitions or each in open_still]
        self._repairs = self._ask_all(asked, dict.fromkeys(nodes, NO_INCARNATION))

    def has_begun_since(self, header: Header) -> bool:
        """
        Return whether the session of *header*, of which this is the first frame here, began after we had joined.

        Then its numbers are expected from 1 on. Otherwise what came before this frame was not for us.
        """
        listed = [question.listed(header.node, header.partition) for question in self._questions.values()]
        return header.partition in self._joins and header.incarnation > max(listed, default=NO_INCARNATION)

    def returned(self, node: str) -> None:
        """Expect sessions of *node*, which is alive after all, to the partitions that we joined while it was away."""
        last_join, incarnation = self.away.pop(node)
        later = [partition for partition, join in self._joins.items() if join > last_join]
        if later:
            self._add(later, {}).silent[node] = incarnation

    def has_due(self) -> bool:
        """Return whether an answer is waited for."""
        return any(question.waiting for question in self._questions.values())

    def tend(self, now: float) -> None:
        """Repeat each question if it is time, or give it up after the last time."""
        self._clock += min(now - self._tended_at, LONGEST_TICK)
        self._tended_at = now
        for question in list(self._questions.values()):
            if question.waiting:
                self._tend(question)

    def _tend(self, question: Question) -> None:
        if question.ask_at is not None and self._clock < question.ask_at:
            return
        if question.ask_at is not None and question.asked == len(WHERE_PAUSES):
            for node in list(question.waiting):
                question.give_up(node)
            self._close_answered()
            return
        if question.ask_at is not None:
            question.asked_again()
            for node in question.waiting:
                self._ask(node, _note(question))
        pause = WHERE_PAUSES[question.asked - 1] + PAUSE_PER_NODE * len(question.waiting)
        question.wait_until(self._clock + pause)

    def _ask_all(self, partitions: Sequence[str], nodes: dict[str, int]) -> list[int]:
        """Ask all nodes, and return the numbers of the questions; those in *nodes* are expected to answer."""
        parts = [partitions[first : first + MAX_ASKED] for first in range(0, len(partitions), MAX_ASKED)]
        questions = [self._add(part, dict(nodes)) for part in parts]
        for question in questions:
            self._ask(None, _note(question))
        self._close_answered()
        return [question.number for question in questions]

    def _add(self, partitions: Iterable[str], nodes: dict[str, int]) -> Question:
        self._last_question += 1
        question = self._questions[self._last_question] = Question(self._last_question, partitions, nodes)
        return question

    def _close_answered(self) -> None:
        """Drop the questions that no node has to answer any more, and tell that some may be answered now."""
        done = [
            question
            for question in self._questions.values()
            if not (question.partitions and (question.waiting or max(question.silent.values(), default=-1) >= 0))
        ]
        for question in done:
            del self._questions[question.number]
        self._on_answered()


def _note(question: Question) -> Note:
    return Note(WHERE, question.number, positions=tuple(map(SessionPosition, question.partitions)))
