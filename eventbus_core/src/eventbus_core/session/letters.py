"""Letters: frames of notes alone, which belong to no session, so that neither end keeps one for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from eventbus_core.backend import ALL_NODES, Frame, Partition, node_partition
from eventbus_core.session.outgoing import Outgoing
from eventbus_core.session.protocol import AT, MAX_ASKED, SessionContext
from eventbus_core.session.wire import Header, Note, SessionPosition, pack

MAX_QUESTIONS: Final = 10_000


class Letters:
    """
    Packs letters, and collects the questions for positions, our own and those to answer, for the outbox.
    """

    def __init__(
        self, context: SessionContext, outgoing: Mapping[Partition, Outgoing], on_pending: Callable[[], None]
    ) -> None:
        """*outgoing* are our sessions as they are at any time; *on_pending* is called when there is more to take."""
        self._context = context
        self._outgoing = outgoing
        self._on_pending = on_pending
        self._questions: list[Frame] = []
        self._asked: dict[tuple[str, int], Note] = {}

    def pack(self, partition: Partition, notes: Sequence[Note]) -> Frame:
        """Return a letter with *notes*."""
        context = self._context
        header = Header(context.namespace, context.node, context.incarnation, 0, partition, 0, 0, 0, list(notes))
        return Frame(partition, pack(header, ()))

    def ask(self, node: str | None, question: Note) -> None:
        """Send *question* to *node*, or else to all nodes, unless too many wait: it is repeated anyway."""
        if len(self._questions) < MAX_QUESTIONS:
            partition = ALL_NODES if node is None else node_partition(node)
            self._questions.append(self.pack(partition, [replace(question, incarnation=self._context.incarnation)]))
            self._on_pending()

    def answer(self, node: str, question: Note) -> None:
        """Answer *question* of *node* with the next write."""
        self._asked[node, question.session] = question
        self._on_pending()

    def take_questions(self) -> list[Frame]:
        """Return our questions, and clear them."""
        questions, self._questions = self._questions, []
        return questions

    def take_asked(self) -> dict[tuple[str, int], Note]:
        """Return the questions to answer, by the node that asks and their number, and clear them."""
        asked, self._asked = self._asked, {}
        return asked

    def pack_answer(self, node: str, question: Note) -> Frame:
        """
        Return the answer to *question* of *node*.

        Call it while no write to that node is running, as events of such a write may get their numbers back.

        It names the sessions to the partitions of *question* that ever carried an event, but none to a third node.
        """
        own = node_partition(node)
        sessions = [self._outgoing.get(Partition(asked.partition)) for asked in question.positions[:MAX_ASKED]]
        positions = tuple(
            SessionPosition(session.partition, session.session, session.next, session.position)
            for session in sessions
            if session is not None and session.next > 1 and (session.node is None or session.partition == own)
        )
        return self.pack(own, [Note(AT, question.session, question.incarnation, positions=positions)])
