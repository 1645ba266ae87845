"""All sessions of one node: finds the one that a frame belongs to, and knows the other nodes' incarnations."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from eventbus_core.backend import Frame, Node, Partition, node_partition
from eventbus_core.model.numbers import MAX_NUMBER, shared
from eventbus_core.model.reports import Gap
from eventbus_core.options import BusOptions
from eventbus_core.session.credit import Credit
from eventbus_core.session.dropped_sessions import DroppedSessions
from eventbus_core.session.incoming import Incoming, Ready
from eventbus_core.session.letters import Letters
from eventbus_core.session.outgoing import Outgoing
from eventbus_core.session.positions import Positions
from eventbus_core.session.protocol import ASK, AT, GRANT, MAX_ASKED, MISSING, NOT_KEPT, RECEIVER_LEFT, WHERE
from eventbus_core.session.resend_buffer import ResendBuffer
from eventbus_core.session.wire import Header, Note, pack, pack_sealed

REORDER_TOLERANCE: Final = 0.05
MAX_INCOMING: Final = 100_000
MAX_NOTES: Final = 500
ANSWER_SIZE: Final = 2048
"""Bytes that an answer to a question for positions counts for, of those that a node may request in a second."""
_NO_EVENTS: Final = memoryview(b"")


class Sessions:
    """
    The sessions of one node incarnation, in both directions; without I/O, like the sessions themselves.

    Attributes:
        namespace, node: ours.
        incarnation: ours; see :meth:`begin`.
        hold_back_size: bytes that each session may hold back while it waits for missing frames.
        letters: what the nodes' session layers tell each other outside of sessions.
        reorder_tolerance: seconds that a frame may be overtaken by others before it counts as lost.
        sealed, pack: whether there is a secret, and how frames with events are packed.
        on_handled: see :meth:`when_handled`.
        duplicates, missed, repaired, stale: events dropped as duplicates, events lost for good, frames retransmitted
            for others, and frames of former incarnations that were dropped.
    """

    def __init__(self, options: BusOptions, node: str, incarnation: int, *, ordered: bool) -> None:
        self.namespace = options.namespace
        self.node = node
        self.incarnation = incarnation
        self.hold_back_size = options.hold_back_size
        self.reorder_tolerance = 0.0 if ordered else REORDER_TOLERANCE
        self.duplicates = self.missed = self.repaired = self.stale = 0
        self.sealed = bool(options.secret)
        self.pack: Callable[[Header, Sequence[bytes]], bytes] = pack_sealed if self.sealed else pack
        self.on_handled: Callable[[float], None] = lambda _since: None
        self._on_pending: Callable[[], None] = lambda: None
        self._on_due: Callable[[], None] = lambda: None
        self._on_left: Callable[[Outgoing, int], None] = lambda _session, _first: None
        self._on_stale: Callable[[Header], None] = lambda _header: None
        self._on_restart_heard: Callable[[str], None] = lambda _node: None
        self._on_restarted: Callable[[Outgoing], None] = lambda _session: None
        self._own = node_partition(node)
        self._stopped = self._closed = False
        self._notes: dict[str, list[Note]] = {}
        self._buffer = ResendBuffer(options.resend_size, options.resend_age)
        self._numbers = itertools.count(1)
        self._outgoing: dict[Partition, Outgoing] = {}
        self._by_number: dict[int, Outgoing] = {}
        self._credit = Credit(options.receive_budget, self._own)
        self.letters = Letters(self, self._outgoing, lambda: self._on_pending())
        self._positions = Positions(node, self.letters.ask)
        self._incoming: dict[tuple[str, int], Incoming] = {}
        self._incomplete: dict[Incoming, None] = {}  # those that miss frames
        self._ended: list[Incoming] = []  # dropped, but what they held back is not handed on yet
        self._incarnations: dict[str, int] = {}  # the newest of each node that was heard
        self._dropped = DroppedSessions()

    def when_pending(self, callback: Callable[[], None]) -> None:
        """Call *callback* when there are new notes or frames to retransmit."""
        self._on_pending = callback

    def when_due(self, callback: Callable[[], None]) -> None:
        """Call *callback* when there is something for :meth:`tend`."""
        self._on_due = callback

    def when_answered(self, callback: Callable[[], None]) -> None:
        """Call *callback* when the answer to :meth:`knows_positions` may have changed."""
        self._positions.when_answered(callback)

    def when_handled(self, callback: Callable[[float], None]) -> None:
        """Call *callback* with the arrival time of each frame whose deliveries are all handled."""
        self.on_handled = callback

    def when_left(self, callback: Callable[[Outgoing, int], None]) -> None:
        """Call *callback* with our session to a node that leaves, and the first number that it did not take."""
        self._on_left = callback

    def when_stale(self, callback: Callable[[Header], None]) -> None:
        """Call *callback* with the header of each frame that was dropped as one of a former incarnation."""
        self._on_stale = callback

    def when_restart_heard(self, callback: Callable[[str], None]) -> None:
        """Call *callback* with a node that seems to have restarted: the directory must confirm that."""
        self._on_restart_heard = callback

    def when_restarted(self, callback: Callable[[Outgoing], None]) -> None:
        """Call *callback* with our session to a node whose former incarnation has not confirmed all it was sent."""
        self._on_restarted = callback

    def set_ease(self, ease: float) -> None:
        """Set the part of the window, from 0 to 1, that senders get for what they send to this node alone."""
        self._credit.set_ease(ease)

    def begin(self, incarnation: int) -> None:
        """Send as *incarnation* from now on; call it before the first frame."""
        self.incarnation = incarnation

    def restart(self, incarnation: int) -> None:
        """Send as *incarnation* from now on, in new sessions that begin with number 1."""
        self.incarnation = incarnation
        self._outgoing.clear()
        self._by_number.clear()

    def take_notes(self) -> dict[str, list[Note]]:
        """Return the notes to send, by node, and clear them."""
        notes, self._notes = self._notes, {}
        return notes

    def take_frames(self) -> list[Frame]:
        """Return the frames to publish as they are, questions for positions and retransmissions, and clear them."""
        return self.letters.take_questions() + self._buffer.take_retransmissions()

    def outgoing(self, partition: Partition, node: str | None = None) -> Outgoing:
        """Return our session to *partition*, which is *node*'s own if one is named."""
        session = self._outgoing.get(partition)
        if session is None:
            session = Outgoing(self, self._buffer, partition, next(self._numbers), node)
            self._outgoing[partition] = self._by_number[session.session] = session
            session.goes_to(self._incarnations.get(node or "", 0))
        return session

    def retire(self, session: Outgoing) -> None:
        """End our session to a node that is gone."""
        self._outgoing.pop(session.partition, None)
        self._by_number.pop(session.session, None)

    def receive(self, header: Header, body: memoryview, now: float) -> Iterator[Ready | Gap]:
        """Take in a frame of another node; yield the frames whose turn has come, and gaps that are final."""
        incarnation = header.incarnation
        if not incarnation:  # a node that has not entered yet: there is nothing to repair, and no credit to give
            yield from Incoming(self, self._credit, header, header.first, closed=True).on_frame(header, body, now)
            return
        node = header.node
        newest = self._incarnations.get(node, 0)
        if incarnation < newest:
            self.stale += 1
            self._on_stale(header)
            return
        if incarnation > newest:
            self._on_new_incarnation(node, incarnation)
        if self._ended:
            yield from self._finish(now)
        if node in self._positions.away:
            self._positions.returned(node)
        if header.session or header.count:
            yield from self._take_in(header, body, now)
        for note in header.notes[:MAX_NOTES]:  # no sender of ours has more
            yield from self._on_note(header, note, now)

    def joined(self, partitions: Sequence[Partition], nodes: Iterable[Node]) -> None:
        """
        Ask where the sessions to *partitions*, which we have just joined, are; *nodes* are those live now.

        Once that is known (:meth:`knows_positions`), an event that is sent from then on arrives or is reported missing.
        """
        self._positions.joined(partitions, nodes)
        self._on_due()

    def knows_positions(self, partition: Partition) -> bool:
        """Return whether every node has said where its session to *partition* is, or is not expected to any more."""
        return self._positions.is_known(partition)

    def unreachable(self, node: str) -> None:
        """Expect no answers from *node*: the transport says that it does not listen."""
        self._positions.unreachable(node)

    def interrupted(self, partitions: Collection[str] | None = None) -> None:
        """Ask every sender where its sessions to *partitions* (``None``: to all) are: frames may be lost."""
        for incoming in self._incoming.values():
            if partitions is None or incoming.partition in partitions or self._own in partitions:  # answers come there
                incoming.interrupted()
        self._positions.ask_again(self._heard(), partitions)
        self._on_due()

    def nodes(self) -> set[str]:
        """Return the nodes that were heard, or that we have a session to, and that were not forgotten since."""
        return self._heard().union(outgoing.node for outgoing in self._outgoing.values() if outgoing.node is not None)

    def forget(self, node: str) -> None:
        """
        Drop all sessions with *node*, which is gone or has restarted.

        If it turns out to be alive, in the same incarnation, its sessions to us continue where they were.
        """
        for key in [key for key in self._incoming if key[0] == node]:
            self._end(key)
        self._positions.forget(node, self._incarnations.get(node, 0))
        for outgoing in self._outgoing.values():
            outgoing.forget(node)

    def correct_incarnation(self, node: str, incarnation: int) -> None:
        """
        Believe no frame that came of a later incarnation of *node* than *incarnation*, which the directory knows.

        The sessions from before such a frame continue where they were. If there is none, and the node has restarted,
        what its former incarnation did not confirm is lost: see :meth:`when_restarted`.
        """
        outgoing = self._outgoing.get(node_partition(node))
        if self._incarnations.get(node, 0) > incarnation:
            self.forget(node)
            self._incarnations[node] = 0
            if outgoing is not None:
                outgoing.not_restarted(incarnation)
        elif outgoing is not None and outgoing.restart is not None:
            self._on_restarted(outgoing)

    def stop(self) -> None:
        """Take in nothing more from our own partition, and confirm nothing: our senders learn from :meth:`close`."""
        self._stopped = True
        for incoming in self._incoming.values():
            if incoming.partition == self._own:
                incoming.close()

    def close(self) -> None:
        """
        Tell every sender which of its events we took in; call :meth:`stop` before.

        That says that their fates are known, so the broker must have each report and each event that was forwarded.
        """
        self._closed = True
        self.left(self._own)

    def left(self, partition: str) -> None:
        """Drop the sessions to *partition*, which we have left: what they carry now is not for us."""
        for key in [key for key, incoming in self._incoming.items() if incoming.partition == partition]:
            self._drop(key).leave()
        self._positions.left(partition)

    def has_due(self) -> bool:
        """Return whether there is something for :meth:`tend` that cannot wait."""
        return bool(self._incomplete or self._ended or self._positions.has_due() or self._credit.has_due())

    def tend(self, now: float) -> Iterator[Ready | Gap]:
        """Do what is due: request what is missing, give up on what no node has, drop frames that are too old."""
        yield from self._finish(now)
        for incoming in list(self._incomplete):
            if note := incoming.due_request(now):
                self.tell(incoming.node, note)
            yield from incoming.give_up(now)
            if incoming.complete:
                self._incomplete.pop(incoming, None)
        self._positions.tend(now)
        self._credit.tend(now)
        self._buffer.expire(now)

    def tell(self, node: str, note: Note) -> None:
        """Leave *note* for the outbox, unless too many wait: a request is repeated anyway."""
        notes = self._notes.setdefault(node, [])
        if len(notes) < MAX_NOTES:
            notes.append(note)
        self._on_pending()

    def on_hole(self, incoming: Incoming) -> None:
        """Look after *incoming* until nothing is missing."""
        self._incomplete[incoming] = None

    def count_duplicates(self, events: int) -> None:
        """Count *events* that arrived before and were dropped."""
        self.duplicates += events

    def count_missed(self, events: int) -> None:
        """Count *events* that are lost for good."""
        self.missed = min(self.missed + events, MAX_NUMBER)  # the numbers may be forged

    def _heard(self) -> set[str]:
        return self._incarnations.keys() - self._positions.away.keys()

    def _on_new_incarnation(self, node: str, incarnation: int) -> None:
        """Record the latest *incarnation* of *node*, and drop the sessions of a former one."""
        if node in self._incarnations:
            self.forget(node)
        elif len(self._incarnations) >= MAX_INCOMING:
            del self._incarnations[next(iter(self._incarnations))]
        self._incarnations[sys.intern(node)] = shared(incarnation)  # nodes of one process have the same
        outgoing = self._outgoing.get(node_partition(node))
        if outgoing is not None:
            outgoing.heard(incarnation)
            if outgoing.restart is not None:
                self._on_restart_heard(node)

    def _take_in(self, header: Header, body: memoryview, now: float) -> Iterable[Ready]:
        """Take in a frame of a session, or where that session is; the caller iterates to the end."""
        if not (self._stopped and header.partition == self._own):
            incoming = self._incoming.get((header.node, header.session)) or self._begin(header)
            self._credit.active.add(incoming)
            self._on_due()
            return incoming.on_frame(header, body, now)
        if self._closed:
            if header.count:
                self.tell(header.node, Note(RECEIVER_LEFT, header.session, header.incarnation, header.first))
        elif (header.node, header.session) not in self._incoming:
            self._begin(header).close()  # so that its sender learns with the others that we took in nothing
        return ()

    def _begin(self, header: Header) -> Incoming:
        """Begin a session, of which *header* is the first frame here."""
        if len(self._incoming) >= MAX_INCOMING:
            self._end(next(iter(self._incoming)))
        begun_since = self._positions.has_begun_since(header)
        expected = self._dropped.recall(header, self._positions.join_number(header.partition))
        if expected is None:
            expected = 1 if begun_since and not self._dropped.is_incomplete(header) else header.first
        incoming = self._incoming[header.node, header.session] = Incoming(self, self._credit, header, expected)
        return incoming

    def _end(self, key: tuple[str, int]) -> None:
        """Drop a session that its sender may continue after all."""
        incoming = self._drop(key)
        self._ended.append(incoming)
        self._on_due()
        self._dropped.remember(incoming, self._positions.join_number(incoming.partition))

    def _drop(self, key: tuple[str, int]) -> Incoming:
        incoming = self._incoming.pop(key)
        self._incomplete.pop(incoming, None)
        incoming.close()
        self._credit.active.discard(incoming)
        return incoming

    def _finish(self, now: float) -> Iterator[Ready | Gap]:
        while self._ended:
            yield from self._ended.pop(0).finish(now)

    def _on_note(self, header: Header, note: Note, now: float) -> Iterator[Ready | Gap]:
        node = header.node
        if note.kind in (ASK, NOT_KEPT):
            incoming = self._incoming.get((node, note.session))
            if incoming and note.kind == ASK:
                incoming.grant()
            elif incoming:
                yield from incoming.not_kept(note.first, note.last, now)
            return
        if note.kind == WHERE:
            if self._buffer.has_budget(node, now, ANSWER_SIZE):
                self.letters.answer(node, note)
            return
        if note.kind == AT:
            yield from self._on_answer(header, note, now)
            return
        outgoing = self._by_number.get(note.session)
        if outgoing is None or note.incarnation != self.incarnation:
            return
        if note.kind == GRANT:
            outgoing.on_grant(node, note.first, note.last)
        elif note.kind == MISSING:
            self._retransmit(node, outgoing, note, now)
        elif note.kind == RECEIVER_LEFT:
            outgoing.forget(node)
            if outgoing.partition == node_partition(node):
                self._on_left(outgoing, note.first)

    def _on_answer(self, header: Header, answer: Note, now: float) -> Iterator[Ready]:
        if answer.incarnation != self.incarnation:
            return
        for at in answer.positions[:MAX_ASKED]:
            if self._positions.join_number(at.partition):
                session = Header(
                    header.namespace,
                    header.node,
                    header.incarnation,
                    at.session,
                    at.partition,
                    at.first,
                    0,
                    at.position,
                )
                yield from self._take_in(session, _NO_EVENTS, now)
        self._positions.answered(header.node, answer.session)

    def _retransmit(self, node: str, outgoing: Outgoing, note: Note, now: float) -> None:
        if not self._buffer.has_budget(node, now):
            return
        frames, lowest = outgoing.retransmission(note.first, note.last)
        if lowest > note.first:
            self.tell(node, Note(NOT_KEPT, note.session, note.incarnation, note.first, min(note.last, lowest - 1)))
        self.repaired += len(frames)
        self._buffer.retransmit(node, frames, now)
        self._on_pending()
